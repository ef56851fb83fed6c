"""The clock of the embedded server: beat, which runs the sweep itself.

A worker that gets a message for each sweep needs ten times the CPU. Run it as
`python -m standalone.clock`.
"""

import signal
from typing import Any

import django
import structlog
from celery.beat import ScheduleEntry, Service
from django.db import close_old_connections, connection

from certctrl import disk, log
from certctrl.beatclock import BeatScheduler
from certctrl.celery import app

logger = structlog.get_logger()
SWEEP = "issuance.sweep"


class Clock(BeatScheduler):
    """Runs the sweep in this process, and sends the messages of all other jobs."""

    def apply_entry(self, entry: ScheduleEntry, producer: Any = None) -> None:
        if entry.task == SWEEP:
            self.sweep(*(entry.args or ()))
        else:
            super().apply_entry(entry, producer)

    def sweep(self, seconds: float = 0.0) -> None:
        """Run the sweep. An error ends this sweep only."""
        close_old_connections()
        try:
            self.app.tasks[SWEEP].run(seconds)
        except Exception as error:
            disk.note(error)
            logger.warning("sweep.not_ended", error=type(error).__name__)


def main() -> None:
    """Run the clock until SIGTERM. The sweep in progress ends first."""
    django.setup()
    log.configure()
    app.loader.import_default_modules()
    if connection.vendor == "sqlite":  # opening the file costs as much as a sweep without work
        connection.settings_dict["CONN_MAX_AGE"] = None
    service = Service(app, max_interval=1, scheduler_cls=Clock)
    signal.signal(signal.SIGTERM, lambda number, frame: service.stop())
    service.start()


if __name__ == "__main__":
    main()
