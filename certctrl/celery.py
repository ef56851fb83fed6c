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


@signals.worker_shutting_down.connect
def stop_gently(**kwargs: Any) -> None:
    from certctrl import turns

    turns.stopping.set()
