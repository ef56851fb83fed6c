"""The Celery application. A message carries one id. The row has the work to do."""

import gc
import os
from functools import cached_property
from typing import Any

from celery import Celery, signals

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "certctrl.settings")


class Application(Celery):
    @cached_property
    def Beat(self) -> Any:
        name: Any = "certctrl.beatclock:Beat"  # its module is imported when beat runs
        return self.subclass_with_self(name)


app = Application("certctrl")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.autodiscover_tasks(related_name="beat")  # tasks that the clock starts


@signals.setup_logging.connect
def configure_logging(**kwargs: Any) -> None:
    from certctrl import log

    log.configure()


@signals.worker_init.connect
def keep_what_is_loaded(**kwargs: Any) -> None:
    """Exclude all loaded objects from garbage collection.

    Some hundred thousand objects live until the process ends. The collector need not scan them
    again. Forked children also copy fewer memory pages.
    """
    gc.collect()
    gc.freeze()


@signals.celeryd_after_setup.connect
def count_the_threads(instance: Any, **kwargs: Any) -> None:
    """Open the board with a slot for each thread, before the pool of this worker starts."""
    from certctrl import board

    board.open_board(instance.concurrency)


@signals.worker_init.connect
def know_the_worker(**kwargs: Any) -> None:
    os.environ["CERTCTRL_WORKER"] = str(os.getpid())


@signals.worker_process_init.connect
def leave_with_the_worker(**kwargs: Any) -> None:
    """End a forked child whose worker has already died.

    A forked child asks Linux to be killed with its worker. A worker may die before that. The child
    would then wait for ever on a pipe that its siblings hold open. A solo worker gets this signal
    too.
    """
    if int(os.environ["CERTCTRL_WORKER"]) not in (os.getpid(), os.getppid()):
        os._exit(1)


@signals.task_failure.connect
def tell_of_a_full_disk(exception: BaseException | None = None, **kwargs: Any) -> None:
    from certctrl import disk

    disk.note(exception)


@signals.worker_shutting_down.connect
def stop_gently(**kwargs: Any) -> None:
    from certctrl import turns

    turns.stopping.set()
