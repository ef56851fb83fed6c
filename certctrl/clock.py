"""What time it is, and how much of it a call may take.

One module, so that tests and the simulator move time in one place.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime

from django.conf import settings
from django.utils import timezone

_ends: ContextVar[float | None] = ContextVar("_ends", default=None)


def now() -> datetime:
    """The wall clock, in UTC."""
    return timezone.now()


def monotonic() -> float:
    """Seconds on a clock that never jumps."""
    return time.monotonic()


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Everything inside ends within so many seconds, or sooner where an outer limit says so."""
    end, outer = monotonic() + seconds, _ends.get()
    token = _ends.set(end if outer is None else min(end, outer))
    try:
        yield
    finally:
        _ends.reset(token)


def rest() -> float:
    """Seconds left of the innermost limit; infinite outside of any."""
    end = _ends.get()
    return float("inf") if end is None else max(0.0, end - monotonic())


def time_left() -> float:
    """Seconds that the next outward call may take: at most CALL_LIMIT, at most the rest of the turn."""
    return float(min(settings.CALL_LIMIT, rest()))
