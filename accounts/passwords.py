"""Passwords are hashed a few at a time: each costs half a second of a processor, and strangers may ask for any number.

Who waits holds no database connection, and waits for a few seconds at most.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from certctrl import outward
from certctrl.errors import Unavailable

AT_ONCE = 2  # in a process
MOST_WAITING = 16
PATIENCE = 3.0  # seconds
PAUSE = 5  # seconds until it is worth trying again
FULL = "Too many log-ins are under way, so this one was not looked at: try again in a few seconds."

_places = threading.BoundedSemaphore(AT_ONCE)
_queue = threading.BoundedSemaphore(MOST_WAITING)


@contextmanager
def hashing(undone: Callable[[], None]) -> Iterator[None]:
    """One of the few places. Raises Unavailable, after `undone()`, where none gets free in time."""
    if not (_places.acquire(blocking=False) or _waited()):
        undone()
        raise Unavailable(FULL, retry_after=PAUSE)
    try:
        yield
    finally:
        _places.release()


def _waited() -> bool:
    """Whether a place got free while it waited; False at once where too many wait already."""
    if not _queue.acquire(blocking=False):
        return False
    try:
        outward.give_connection_back()
        return _places.acquire(timeout=PATIENCE)
    finally:
        _queue.release()
