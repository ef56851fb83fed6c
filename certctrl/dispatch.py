"""Due rows become messages. A message carries one id; losing or doubling it changes nothing."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import structlog
from celery import Task
from django.conf import settings
from django.db.models import F, QuerySet, Value
from django.db.models.functions import Least
from kombu.exceptions import OperationalError

from certctrl import clock, disk
from certctrl.turns import SKEW, LostTurn, Trouble, TurnsQuerySet, Wait

MOST_ON_THEIR_WAY = 1000
SHARE = MOST_ON_THEIR_WAY // 4  # of one credential or account, while others wait


def admit(rows: TurnsQuerySet[Any], task: "Task[Any, Any]", most: int = SHARE) -> None:
    """Send the task for these rows, those that waited longest first, so that up to `most` are on their way."""
    ids = list(rows.order_by("wake_at").values_list("pk", flat=True)[:most])
    if not ids:
        return None
    ids = ids[: max(0, most - rows.model._default_manager.on_their_way().count())]
    mark(rows, ids)
    for at, pk in enumerate(ids):
        if not nudge(task, pk):
            return unmark(rows, ids[at:])
    return None


def admit_fairly(
    rows: TurnsQuerySet[Any], now: datetime, of: str, most: int, task: "Task[Any, Any]"
) -> None:
    """The same for what is sendable, with no more than `most` on their way that have the same `of`."""
    if rows.sendable(now).exists():
        admit(rows.sendable_of_each(now, of, most), task)


def mark(rows: QuerySet[Any], ids: Sequence[int]) -> None:
    """Note that a message is on its way, before it is: a worker may be done with it before we are. What nobody holds is
    due a little earlier, so that a worker whose clock is behind finds it due."""
    now = clock.now()
    rows.filter(pk__in=ids, holder="").update(wake_at=Least(F("wake_at"), Value(now - SKEW)))
    rows.filter(pk__in=ids).update(queued_at=now)


def unmark(rows: QuerySet[Any], ids: Sequence[int]) -> None:
    """The broker is away: nothing was sent for these."""
    rows.model._base_manager.filter(pk__in=ids, holder="").update(queued_at=None)


logger = structlog.get_logger()


def nudge(task: "Task[Any, Any]", *args: int) -> bool:
    """Send one message. False, and a line in the log, when the broker is away."""
    return send(lambda: task.apply_async(args, expires=settings.RESEND), task=task.name)


def send(message: Callable[[], object], **keys: object) -> bool:
    try:
        message()
    except (OperationalError, OSError) as error:  # away, or full
        disk.note(error)
        logger.warning("broker.away", error=type(error).__name__, **keys)
        return False
    return True


def under_own_turn(act: Callable[[int], None], row_id: int) -> None:
    """Wait and Trouble are written in the row by then; here they are only told."""
    try:
        act(row_id)
    except (Wait, Trouble, LostTurn) as why:
        logger.info("turn.ended", row=row_id, why=str(why))
    except Exception:  # the row sleeps by the retry table
        logger.exception("turn.failed", row=row_id)
