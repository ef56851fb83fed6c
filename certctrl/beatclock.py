"""The schedule of beat, in memory only, so that a change of the wall clock cannot stop a job.

Celery's own scheduler stores the time of the last run in a file. When the clock was ahead, that
time is in the future. The job then does not run until the clock reaches that time. So nothing is
swept or renewed, not even after a restart.

Our jobs may run twice without harm, so nothing is stored. Each job runs when beat starts, then by
its interval.
"""

import os
import signal
from datetime import datetime
from typing import Any

from celery.apps import beat
from celery.beat import ScheduleEntry, Scheduler, Service


class Entry(ScheduleEntry):
    """A job that is due when beat starts, and then after each interval.

    The job is also due when its last run is in the future.
    """

    def is_due(self) -> tuple[bool, float]:
        schedule: Any = self.schedule
        if self.total_run_count and not ran_after(self, self.default_now()):
            is_due, pause = schedule.is_due(self.last_run_at)
            return is_due, pause
        return True, schedule.seconds


def ran_after(entry: Any, now: datetime) -> bool:
    """Return whether the last run is after `now`, because the clock was put back."""
    return bool(entry.last_run_at > now)


class BeatScheduler(Scheduler):
    Entry = Entry

    def tick(self, *args: Any, **kwargs: Any) -> float:
        now = self.app.now()
        if any(ran_after(entry, now) for entry in self.schedule.values()):
            self.populate_heap()  # the times in the heap are in the future too
        return float(super().tick(*args, **kwargs))

    def adjust(self, n: float, drift: float = 0.0) -> float:
        """Return the pause as it is.

        Celery's own pause is 10 ms shorter. Then no job is due at its end, and beat asks again in a
        busy loop.
        """
        return n


class Beat(beat.Beat):
    """The program `celery beat`, which ends at once at SIGTERM and SIGINT."""

    def install_sync_handler(self, service: Service) -> None:
        """End the process at once. Nothing is stored, so nothing is lost.

        Celery raises SystemExit there. A library that cleans up after it can raise another
        exception in its place. Celery logs that one, and beat goes on.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda signum, frame: os._exit(0))
