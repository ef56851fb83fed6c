"""The clock of the embedded server: beat, and the worker that sweeps, in one process.

Two processes would cost another 45 MB. Run it as `python -m standalone.clock`, with options of
`celery worker`.
"""

import os
import signal
import sys
import threading
from typing import Any

from celery import signals
from celery.beat import Service

from certctrl.celery import app


class Beat(threading.Thread):
    """Beat in a thread. When the thread ends, the process ends too, and is started again."""

    def __init__(self) -> None:
        super().__init__(name="beat", daemon=True)
        # Without the name, the service would take Celery's scheduler, which keeps a file.
        self.service = Service(app, max_interval=1, scheduler_cls=app.conf.beat_scheduler)

    def run(self) -> None:
        try:
            self.service.start()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run the worker, and beat as soon as the worker is ready."""
    beat = Beat()

    def start(**kwargs: Any) -> None:
        beat.start()

    signals.worker_ready.connect(start)
    app.worker_main(["worker", "--pool", "solo", "--queues", "sweep", *sys.argv[1:]])


if __name__ == "__main__":
    main()
