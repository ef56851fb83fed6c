"""The Celery application. A message carries one id and is only a nudge: the row says what is to be done."""

import gc
import os
from typing import Any

from celery import Celery, signals

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "certctrl.settings")

app = Celery("certctrl")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.autodiscover_tasks(related_name="beat")  # what the clock starts


@signals.setup_logging.connect
def configure_logging(**kwargs: Any) -> None:
    from certctrl import log

    log.configure()


@signals.worker_init.connect
def keep_what_is_loaded(**kwargs: Any) -> None:
    """The collector need not look at some hundred thousand objects again and again that stay until the end; nor do
    forked children copy their pages for its marks."""
    gc.collect()
    gc.freeze()


@signals.worker_init.connect
def know_the_worker(**kwargs: Any) -> None:
    os.environ["CERTCTRL_WORKER"] = str(os.getpid())


@signals.worker_process_init.connect
def leave_with_the_worker(**kwargs: Any) -> None:
    """A forked child asks Linux to be killed with the worker. One whose worker died before it could ask leaves now, or
    it would wait for ever: its siblings hold the pipe open that it reads from. A solo worker is told this too."""
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
