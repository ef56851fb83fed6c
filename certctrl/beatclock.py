"""beat's schedule, kept in memory and right whatever the wall clock does.

Celery's own scheduler keeps in a file when each job ran last. A moment that was written while the clock was ahead then
keeps the job from running until the clock is there again: nothing is swept or renewed, not even after a restart. Our
jobs are harmless when they are doubled, so nothing is kept: each runs when beat starts, then by its interval.
"""

from typing import Any

from celery.beat import ScheduleEntry, Scheduler


class Entry(ScheduleEntry):
    """A job that is due when beat starts, by its interval after that, and when its last run lies ahead of the clock."""

    def is_due(self) -> tuple[bool, float]:
        schedule: Any = self.schedule
        if self.total_run_count and not ran_in_the_future(self):
            is_due, pause = schedule.is_due(self.last_run_at)
            return is_due, pause
        return True, schedule.seconds


def ran_in_the_future(entry: Any) -> bool:
    """The clock was put back since the last run."""
    return bool(entry.last_run_at > entry.default_now())


class BeatScheduler(Scheduler):
    Entry = Entry

    def tick(self, *args: Any, **kwargs: Any) -> float:
        if any(ran_in_the_future(entry) for entry in self.schedule.values()):
            self.populate_heap()  # the moments in it lie as far ahead
        return float(super().tick(*args, **kwargs))
