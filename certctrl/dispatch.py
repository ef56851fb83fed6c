"""Sends a message for each due row.

A message carries one id. A lost or doubled message changes nothing.
"""

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
    """Send the task for these rows, oldest `wake_at` first.

    At most `most` messages are on their way afterwards.
    """
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
    """Send the task for sendable rows, with at most `most` on their way for each value of `of`."""
    if rows.sendable(now).exists():
        admit(rows.sendable_of_each(now, of, most), task)


def mark(rows: QuerySet[Any], ids: Sequence[int]) -> None:
    """Record that messages are on their way, before they are sent.

    A worker may finish a message before this process could record it. `wake_at` of rows without a
    holder is moved back by SKEW. So a worker whose clock is behind finds these rows due.
    """
    now = clock.now()
    rows.filter(pk__in=ids, holder="").update(wake_at=Least(F("wake_at"), Value(now - SKEW)))
    rows.filter(pk__in=ids).update(queued_at=now)


def unmark(rows: QuerySet[Any], ids: Sequence[int]) -> None:
    """Record that nothing was sent for these rows, because the broker is away."""
    rows.model._base_manager.filter(pk__in=ids, holder="").update(queued_at=None)


logger = structlog.get_logger()


def nudge(task: "Task[Any, Any]", *args: int) -> bool:
    """Send one message. Return False, and log a warning, when the broker is away."""
    return send(lambda: task.apply_async(args, expires=settings.RESEND), task=task.name)


def send(message: Callable[[], object], **keys: object) -> bool:
    try:
        message()
    except (OperationalError, OSError) as error:  # the broker is away or full
        disk.note(error)
        logger.warning("broker.away", error=type(error).__name__, **keys)
        return False
    return True


def under_own_turn(act: Callable[[int], None], row_id: int) -> None:
    """Call `act`, and log how the turn ended.

    The turn itself writes Wait and Trouble to the row.
    """
    try:
        act(row_id)
    except (Wait, Trouble, LostTurn) as why:
        logger.info("turn.ended", row=row_id, why=str(why))
    except Exception:  # the row sleeps by the retry table
        logger.exception("turn.failed", row=row_id)
