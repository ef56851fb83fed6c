"""The current time, and the time that a call may take.

This is one module, so that tests and the simulator change the time in one place.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime

from django.conf import settings
from django.utils import timezone

_ends: ContextVar[float | None] = ContextVar("_ends", default=None)
_never = threading.Event()


def now() -> datetime:
    """Return the wall clock, in UTC."""
    return timezone.now()


def monotonic() -> float:
    """Return the seconds of a clock that never jumps."""
    return time.monotonic()


def pause(seconds: float) -> None:
    """Wait in this thread. Only the sweep may wait. Everything else lets its row wait."""
    _never.wait(seconds)


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Set a deadline: the body ends within `seconds`, or earlier at an outer limit."""
    end = monotonic() + seconds
    outer = _ends.get()
    token = _ends.set(end if outer is None else min(end, outer))
    try:
        yield
    finally:
        _ends.reset(token)


def remaining() -> float:
    """Return the seconds until the innermost deadline, or infinity outside of any limit."""
    end = _ends.get()
    return float("inf") if end is None else max(0.0, end - monotonic())


def time_left() -> float:
    """Return the seconds that the next outward call may take.

    The maximum is CALL_LIMIT, and the remaining time of the turn.
    """
    return float(min(settings.CALL_LIMIT, remaining()))
