"""Stop at SIGTERM: at once while a poll waits, and otherwise after the work in progress."""

import contextlib
import signal
from collections.abc import Iterator
from threading import Event
from typing import Any


class Stopped(BaseException):
    """A signal ended a request that only waited."""


class Stop(Event):
    """An event that SIGTERM and SIGINT set."""

    def __init__(self) -> None:
        super().__init__()
        self.is_idle = False

    def listen(self) -> "Stop":
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.received)
        return self

    def received(self, *_: Any) -> None:
        self.set()
        if self.is_idle:
            raise Stopped

    @contextlib.contextmanager
    def idle(self) -> Iterator[None]:
        """Mark a request that may be ended at any moment. Raise Stopped then."""
        self.is_idle = True
        try:
            if self.is_set():
                raise Stopped
            yield
        finally:
            self.is_idle = False
