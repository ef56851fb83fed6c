"""Limits how many passwords are hashed at the same time.

A hash costs half a second of CPU time, and anybody may send any number of logins. A login that
waits for a place holds no database connection. It waits at most `PATIENCE` seconds.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from certctrl import outward
from certctrl.errors import Unavailable

AT_ONCE = 2  # in each process
MOST_WAITING = 16
PATIENCE = 3.0  # seconds
PAUSE = 5  # seconds, sent as Retry-After
FULL = "Too many log-ins are under way, so this one was not checked: try again in a few seconds."

_places = threading.BoundedSemaphore(AT_ONCE)
_queue = threading.BoundedSemaphore(MOST_WAITING)


@contextmanager
def hashing(undone: Callable[[], None]) -> Iterator[None]:
    """Hold one of the `AT_ONCE` places.

    If no place becomes free in time, call `undone()` and raise Unavailable.
    """
    if not (_places.acquire(blocking=False) or _waited()):
        undone()
        raise Unavailable(FULL, retry_after=PAUSE)
    try:
        yield
    finally:
        _places.release()


def _waited() -> bool:
    """Wait for a place. Return whether it was taken.

    Return False immediately if `MOST_WAITING` logins wait already.
    """
    if not _queue.acquire(blocking=False):
        return False
    try:
        outward.give_connection_back()
        return _places.acquire(timeout=PATIENCE)
    finally:
        _queue.release()
