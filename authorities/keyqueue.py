"""Limit the RSA keys that requests make: one at a time for each owner, and a short queue.

An RSA key of 4096 bits takes up to a few seconds of one core. Without this limit, the parallel
requests of one owner would take every core of the web process from all others.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

# Requests of one owner, including the active one. Each holds a thread and a database connection.
MOST_IN_LINE = 4
LONGEST_WAIT = 10.0  # seconds


class Busy(Exception):
    """The owner's queue is full, or the wait was too long."""


@dataclass
class _Line:
    lock: threading.Lock = field(default_factory=threading.Lock)
    length: int = 0


_lines: dict[int, _Line] = {}
_guard = threading.Lock()


@contextmanager
def one_at_a_time(owner_id: int) -> Iterator[None]:
    """Wait until no other request of the owner makes a key in this process. Then run the block.

    Raise Busy when four requests are in the queue, or after a wait of 10 seconds.
    """
    with _guard:
        line = _lines.setdefault(owner_id, _Line())
        if line.length >= MOST_IN_LINE:
            raise Busy
        line.length += 1
    try:
        if not line.lock.acquire(timeout=LONGEST_WAIT):
            raise Busy
        try:
            yield
        finally:
            line.lock.release()
    finally:
        with _guard:
            line.length -= 1
            if not line.length:
                del _lines[owner_id]
