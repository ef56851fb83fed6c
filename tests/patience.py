"""How tests wait for something that another process or thread does.

A limit is long, because the machine may be busy. A test that passes does not wait for it.
"""

import threading
from collections.abc import Callable

import pytest

LIMIT = 90.0  # seconds
tick = threading.Event()  # never set: waiting for it passes time


def until(check: Callable[[], object], what: str, every: float = 0.05) -> None:
    """Wait until the check is true. Fail after LIMIT seconds."""
    for _ in range(int(LIMIT / every)):
        if check():
            return
        tick.wait(every)
    pytest.fail(f"not within {LIMIT:g} s: {what}")
