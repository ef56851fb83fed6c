"""Sends a message for each due row.

A message carries one id. A lost or doubled message changes nothing.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache, partial
from itertools import dropwhile
from typing import Any, NamedTuple

import structlog
from celery import Task
from django.conf import settings
from django.db.models import F, QuerySet, Value
from django.db.models.functions import Least
from kombu.exceptions import OperationalError

from certctrl import clock, disk, lanes
from certctrl.turns import SKEW, LostTurn, Trouble, TurnsQuerySet, Wait

MOST_ON_THEIR_WAY = 1000
SHARE = MOST_ON_THEIR_WAY // 4  # cleanups, and each of the other kinds
OF_ONE = SHARE // 4  # of one owner, or of one lane that answers late
MOST_CONSIDERED = 1000  # due rows that are chosen from
# Priorities of Celery's transport for Redis, where 0 goes first.
BEGUN, FIRST, LATER = 0, 3, 9

logger = structlog.get_logger()


class Parties(NamedTuple):
    """Whom a row calls, by the keys of the lanes, and for whom, by the owner's id."""

    lanes: tuple[str, ...]
    owner: int | None


class Shares:
    """Counts the rows that are on their way, by lane and by owner.

    `share` is for each owner, and for each lane that answers late. A lane in trouble has two
    rows, and a lane that answers well has no limit here.
    """

    def __init__(self, share: int) -> None:
        self.share = share
        self.lanes: Counter[str] = Counter()
        self.owners: Counter[int | None] = Counter()

    def add(self, parties: Parties) -> None:
        self.lanes.update(parties.lanes)
        self.owners[parties.owner] += 1

    def has_room(self, parties: Parties, *, fairly: bool = True) -> bool:
        """Return whether a row has room. Without `fairly`, an owner may have any share."""
        has_share = not fairly or self.owner_has_room(parties.owner)
        return has_share and all(map(self.lane_has_room, parties.lanes))

    def owner_has_room(self, owner: int | None) -> bool:
        return self.owners[owner] < self.share

    def lane_has_room(self, lane: str) -> bool:
        match lanes.standing_of(lane):
            case lanes.Standing.TROUBLE:
                return self.lanes[lane] < lanes.IN_TROUBLE
            case lanes.Standing.SLOW:
                return self.lanes[lane] < self.share
        return True


def admit(
    rows: TurnsQuerySet[Any],
    task: "Task[Any, Any]",
    lane_of: Callable[..., lanes.Lane | None],
    columns: Sequence[str],
    now: datetime,
    most: int = SHARE,
) -> None:
    """Send the task for sendable rows, oldest `wake_at` first.

    The last one of `columns` is the owner. `lane_of` gets the values of the others. Afterwards at
    most `most` messages are on their way, and a quarter of them of one owner. Lanes have room as in
    `Shares`.
    """
    due = rows.sendable(now)
    if not due.has_due():
        return

    @cache
    def parties_of(*values: Any) -> Parties:
        lane = lane_of(*values[:-1])
        return Parties((lane.key,) if lane else (), values[-1])

    shares = Shares(min(OF_ONE, max(1, most // 4)))
    sent = Counter(rows.on_their_way().values_list(*columns))
    for values in sent.elements():
        shares.add(parties_of(*values))
    left = due
    for values in sent:
        if not shares.has_room(parties_of(*values)):
            left = left.exclude(**dict(zip(columns, values, strict=True)))
    chosen: list[int] = []
    for pk, *values in left.order_by("wake_at").values_list("pk", *columns)[:MOST_CONSIDERED]:
        parties = parties_of(*values)
        if len(chosen) + sent.total() < most and shares.has_room(parties):
            shares.add(parties)
            chosen.append(pk)
    send_each(due, {pk: partial(nudge, task, pk) for pk in chosen})


def send_each(rows: QuerySet[Any], messages: Mapping[int, Callable[[], bool]]) -> None:
    """Record that a message of each row is on its way, and send them until the broker is away.

    A worker may finish a message before this process could record it. `wake_at` of rows without a
    holder is moved back by SKEW. So a worker whose clock is behind finds these rows due.
    """
    now = clock.now()
    ids = list(messages)
    rows.filter(pk__among=ids, holder="").update(wake_at=Least(F("wake_at"), Value(now - SKEW)))
    rows.filter(pk__among=ids).update(queued_at=now)
    if unsent := list(dropwhile(lambda pk: messages[pk](), ids)):
        rows.model._base_manager.filter(pk__among=unsent, holder="").update(queued_at=None)


def nudge(task: "Task[Any, Any]", *args: int) -> bool:
    """Send one message. Return False, and log a warning, when the broker is away."""
    return send(
        lambda: task.apply_async(args, expires=settings.RESEND, priority=FIRST), task=task.name
    )


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
