"""Looks in batches, for attempts that wait until their challenges show.

The attempts of a batch are claimed together. One look serves them all, and one UPDATE puts them
back. One message for each attempt would cost forty times as much.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
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

STEP = machine.STEP_AT[Issuance.State.PRESENTED]


def look() -> list[int]:
    """Look once for up to 500 attempts. Return the ids of those that go on with `validate`."""
    # Prefetched, so that attempts with the same credential share one object.
    attempts = Issuance.objects.prefetch_related("credential").defer("csr_pem")
    rows = attempts.claim_batch(BATCH, lease=LEASE, turn=TURN, state=STEP.state, holder="")
    if not rows:
        return []
    try:
        with clock.limit(TURN - 2):
            seen = propagate.look(rows)
    except Exception:
        logger.exception("look.failed", rows=len(rows))
        return _stumble(rows)
    through: list[int] = []
    waiting: dict[int, list[Issuance]] = defaultdict(list)
    again: list[tuple[Issuance, Done]] = []
    for row in rows:
        if row.turn_left() <= 0:
            waiting[0].append(row)  # no time is left; another batch takes this row
        elif _end(row, seen[row.pk], waiting, again):
            through.append(row.pk)
    for pause, same in waiting.items():
        _put_back_together(same, pause)
    if again:
        _publish_again_together(again)
    return through


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

    return [row.pk for row in rows if machine.run(STEP, row, fail)]


def _end(
    row: Issuance,
    seen: Mapping[str, Any],
    waiting: dict[int, list[Issuance]],
    again: list[tuple[Issuance, Done]],
) -> bool:
    """End the turn of one row. Return True when the attempt goes on with `validate`.

    A row that only waits longer is put into `waiting`, under its pause in seconds. A row whose
    records are published again is put into `again`. The caller ends the turns of both together.
    """

    def pause_together(step: machine.Step, issuance: Issuance, wait: Wait) -> None:
        is_new = wait.what != issuance.waits_for or wait.fields
        says_the_same = not is_new and not issuance.stumbles and not wait.imposed
        if says_the_same and clock.now() < issuance.deadline_at:
            waiting[int(wait.seconds)].append(issuance)
        else:
            machine.put_back(step, issuance, wait)

    def end_together(step: machine.Step, issuance: Issuance, done: Done, took: float) -> bool:
        if not done.again:
            return machine.settle(step, issuance, done, took)
        again.append((issuance, done))
        return False

    return machine.run(
        STEP,
        row,
        lambda issuance: propagate.judge(issuance, seen),
        pause_together,
        end_together,
    )


def _put_back_together(rows: Sequence[Issuance], pause: int) -> None:
    """End the turns of all rows that wait for `pause` seconds, in one UPDATE.

    A row whose turn was lost is not changed.
    """
    mine = Issuance.objects.filter(pk__in=[row.pk for row in rows], holder=rows[0].holder)
    wake_at = clock.now() + timedelta(seconds=pause)
    if pause >= LONG:
        wake_at += timedelta(seconds=-wake_at.timestamp() % IN_STEP)
    mine.update(holder="", queued_at=None, deaths=0, wake_at=wake_at)


def _publish_again_together(ends: Sequence[tuple[Issuance, Done]]) -> None:
    """Send all attempts whose records no server shows back to `present`, in one transaction.

    Each gets the same event as with a look of its own.
    """
    now, token = clock.now(), ends[0][0].holder
    by_id = {row.pk: (row, done) for row, done in ends}
    with transaction.atomic():
        mine = Issuance.objects.select_for_update().filter(pk__in=by_id, holder=token)
        kept = list(mine.order_by("pk").values_list("pk", flat=True))
        Issuance.objects.filter(pk__in=kept).update(
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
    for pk in by_id.keys() - set(kept):
        machine.after_losing(by_id[pk][0])
