"""RSA keys that are made in a request: one at a time for each owner, and few in line.

A key of 4096 bits takes up to some seconds of one core. Without turns, the parallel requests of
one owner would take every core of the web process from all others.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

# Of one owner, with the one whose turn it is. Each holds a thread and a database connection.
MOST_IN_LINE = 4
LONGEST_WAIT = 10.0  # seconds


class Busy(Exception):
    """The line of this owner is full, or it did not move."""


@dataclass
class _Line:
    turn: threading.Lock = field(default_factory=threading.Lock)
    length: int = 0


_lines: dict[int, _Line] = {}
_guard = threading.Lock()


@contextmanager
def turn_of(owner_id: int) -> Iterator[None]:
    """Wait for the owner's turn in this process and keep it for the body. Raise Busy."""
    with _guard:
        line = _lines.setdefault(owner_id, _Line())
        if line.length >= MOST_IN_LINE:
            raise Busy
        line.length += 1
    try:
        if not line.turn.acquire(timeout=LONGEST_WAIT):
            raise Busy
        try:
            yield
        finally:
            line.turn.release()
    finally:
        with _guard:
            line.length -= 1
            if not line.length:
                del _lines[owner_id]
