"""Looks in batches, for attempts that wait until their challenges show.

The attempts of a batch are claimed together. One look serves them all, and one UPDATE puts them
back. One message for each attempt would cost forty times as much.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import transaction
from django.db.models import F

from certctrl import clock
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble, Wait
from issuance.models import Issuance, IssuanceEvent
from issuance.workflow import machine
from issuance.workflow.outcome import Done
from issuance.workflow.steps import propagate

logger = structlog.get_logger()

BATCH = 500
LEASE = 30.0  # seconds
TURN = 20.0  # seconds
# An attempt that waits LONG seconds or more wakes at a multiple of IN_STEP seconds. So it shares
# a look with others. A look at few records costs nearly as much as a look at many.
LONG = 20
IN_STEP = 5

# The columns that a look reads of each attempt. Most attempts only wait longer. Of the others the
# whole row is read.
READ = (
    "wake_at",
    "holder",
    "stumbles",
    "certificate",
    "account",
    "credential",
    "state",
    "state_since",
    "deadline_at",
    "waits_for",
    "presents",
    "settles_at",
    "servers",
    "deaf",
)

STEP = machine.STEP_AT[Issuance.State.PRESENTED]


def look() -> list[int]:
    """Look once for up to 500 attempts. Return the ids of those that go on with `validate`."""
    # Prefetched, so that attempts with the same credential share one object.
    attempts = Issuance.objects.prefetch_related("credential").only(*READ)
    rows = attempts.claim_batch(BATCH, lease=LEASE, turn=TURN, state=STEP.state, holder="")
    if not rows:
        return []
    try:
        with clock.limit(TURN - 2):
            seen = propagate.look(rows)
    except Exception:
        logger.exception("look.failed", rows=len(rows))
        return _stumble(rows)
    now = clock.now()
    others: dict[int, Done | Exception] = {}
    waiting: dict[tuple[datetime, str], list[Issuance]] = defaultdict(list)
    for row in rows:
        outcome = _judged(row, seen[row.pk])
        if isinstance(outcome, Wait) and _says_the_same(row, outcome, now):
            waiting[_wakes_at(now, outcome), json.dumps(outcome.fields)].append(row)
        else:
            others[row.pk] = outcome
    for (wake_at, fields), same in waiting.items():
        _put_back_together(same, wake_at, json.loads(fields))
    through: list[int] = []
    again: list[tuple[Issuance, Done]] = []
    late: list[Issuance] = []  # no time is left; another batch takes these rows
    for whole in _whole([row for row in rows if row.pk in others]):
        if whole.turn_left() <= 0:
            late.append(whole)
        elif _end(whole, others[whole.pk], again):
            through.append(whole.pk)
    if late:
        _put_back_together(late, now, {})
    if again:
        _publish_again_together(again)
    return through


def _whole(rows: Sequence[Issuance]) -> list[Issuance]:
    """Return the rows with all columns. They have the turns of the given ones, which lose them."""
    if not rows:
        return []
    mine = Issuance.objects.filter(pk__among=[row.pk for row in rows], holder=rows[0].holder)
    left = rows[0].turn_left()
    for row in rows:
        row.holder = ""
    return [each.begin(left) for each in mine.prefetch_related("credential")]


def _stumble(rows: Sequence[Issuance]) -> list[int]:
    """End the turn of each row with a trouble, because the look failed.

    Each attempt sleeps by the retry table. Return the ids of those that go on (none).
    """

    def fail(issuance: Issuance) -> Done:
        raise Trouble(
            "internal",
            _(
                "Internal error while looking at the challenges. It is retried; the server "
                "log has the details."
            ),
        )

    return [row.pk for row in _whole(rows) if machine.run(STEP, row, fail)]


def _judged(row: Issuance, seen: Mapping[str, Any]) -> Done | Exception:
    """Return what a look means for an attempt. An exception is returned, not raised."""
    try:
        return propagate.judge(row, seen)
    except Exception as why:
        return why


def _says_the_same(row: Issuance, wait: Wait, now: datetime) -> bool:
    """Return whether the look found nothing new for people, so that the attempt only waits longer.

    Then there is no event, and rows with the same new `fields` are put back together.
    """
    is_new = wait.what != row.waits_for or row.stumbles or wait.imposed
    return not is_new and now < row.deadline_at


def _wakes_at(now: datetime, wait: Wait) -> datetime:
    at = now + timedelta(seconds=int(wait.seconds))
    return at + timedelta(seconds=-at.timestamp() % IN_STEP) if wait.seconds >= LONG else at


def _end(row: Issuance, outcome: Done | Exception, again: list[tuple[Issuance, Done]]) -> bool:
    """End the turn of one row. Return True when the attempt goes on with `validate`.

    A row whose records are published again is put into `again`. The caller ends its turn.
    """

    def act(issuance: Issuance) -> Done:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def end_together(step: machine.Step, issuance: Issuance, done: Done, took: float) -> bool:
        if not done.again:
            return machine.settle(step, issuance, done, took)
        again.append((issuance, done))
        return False

    return machine.run(STEP, row, act, end=end_together)


def _put_back_together(
    rows: Sequence[Issuance], wake_at: datetime, fields: Mapping[str, Any]
) -> None:
    """End the turns of all rows, which wait until `wake_at`, and write `fields`, in one UPDATE.

    A row whose turn was lost is not changed.
    """
    mine = Issuance.objects.filter(pk__among=[row.pk for row in rows], holder=rows[0].holder)
    mine.update(holder="", queued_at=None, deaths=0, wake_at=wake_at, **fields)
    for row in rows:
        row.holder = ""


def _publish_again_together(ends: Sequence[tuple[Issuance, Done]]) -> None:
    """Send all attempts whose records no server shows back to `present`, in one transaction.

    Each gets the same event as with a look of its own.
    """
    now, token = clock.now(), ends[0][0].holder
    by_id = {row.pk: (row, done) for row, done in ends}
    with transaction.atomic():
        mine = Issuance.objects.select_for_update().filter(pk__among=by_id, holder=token)
        kept = list(mine.order_by("pk").values_list("pk", flat=True))
        Issuance.objects.filter(pk__among=kept).update(
            holder="",
            queued_at=None,
            stumbles=0,
            deaths=0,
            wake_at=now,
            state=Issuance.State.ORDERED,
            state_since=now,
            presents=F("presents") + 1,
            settles_at=None,
        )
        absent: dict[str, list[int]] = defaultdict(list)
        for pk in kept:
            for kind, ids in by_id[pk][1].again.items():
                absent[kind].extend(ids)
        propagate.present_again(absent)
        IssuanceEvent.objects.bulk_create(
            [
                IssuanceEvent(
                    issuance_id=pk,
                    at=now,
                    step=STEP.name,
                    outcome=IssuanceEvent.Outcome.DONE,
                    what=by_id[pk][1].what,
                )
                for pk in kept
            ]
        )
    for pk in kept:
        by_id[pk][0].holder = ""
    for pk in by_id.keys() - set(kept):
        machine.after_losing(by_id[pk][0])
