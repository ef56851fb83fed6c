"""The tasks that workers run.

A task carries one id. The row says what is to be done, so a message that is lost or sent twice
changes nothing.
"""

import threading
from collections.abc import Iterable
from functools import partial
from typing import Any

from celery import Task, shared_task
from django.conf import settings

from certctrl import board, clock, lanes
from certctrl.dispatch import BEGUN, FIRST, send, under_own_turn
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble, stopping
from dnsproviders import registry
from issuance import notify, probes, workflow
from issuance.challenges import txtrecords
from issuance.models import Issuance
from issuance.renewal import ari

MOST_LOOKS = 20  # batches of one message


class Going:
    """The look of this process that goes on. `since` is when its batch began."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.since = 0.0

    @property
    def is_late(self) -> bool:
        return clock.monotonic() - self.since > board.SLOW


_going = Going()


def step_task(step: workflow.Step) -> "Task[Any, Any]":
    """Return the Celery task that takes `step` for one attempt.

    It is a link of a chain. While the next links need no rest, this worker takes them too. Celery
    sends the first link that is left. When the attempt must wait, the links are dropped.
    """

    @shared_task(name=f"issuance.{step.name}", bind=True)
    def task(self: "Task[Any, Any]", issuance_id: int) -> None:
        later = serve(step, issuance_id)
        given = (self.request.delivery_info or {}).get("priority")
        priority = FIRST if given is None else given
        links = _links(issuance_id, later.state, priority) if later else None
        # Celery's Ignore drops links too, but it formats a traceback each time.
        self.request.update(chain=links)

    return task


def serve(step: workflow.Step, issuance_id: int) -> workflow.Step | None:
    """Walk from `step` on, and remove the records that the attempt left in its zones.

    Return the step for which a message is due. A record of another attempt, or one that could not
    be removed, is for the sweep. So is the rest when this worker stops.
    """
    with registry.unsealing_once():
        return workflow.walk(step, issuance_id, _remove_records)


def _remove_records(issuance: Issuance) -> None:
    for record_id in txtrecords.left_by(issuance):
        if stopping.is_set():
            break
        under_own_turn(partial(withdraw, by=issuance), record_id)


LOOKS = lanes.Lane("looks", _("the name servers"))
STEP_TASKS = {step.name: step_task(step) for step in workflow.STEPS}


def start(issuance_id: int, state: str = Issuance.State.QUEUED, *, priority: int = FIRST) -> bool:
    """Send the steps that an attempt in `state` still has to take, as one chain.

    Return False when the broker is away; the sweep sends them later.
    """
    *rest, first = _links(issuance_id, state, priority)
    task: Any = STEP_TASKS[workflow.STEP_AT[state].name]
    return send(
        lambda: task.apply_async(first["args"], chain=rest, **first["options"]),
        issuance=issuance_id,
    )


def _links(issuance_id: int, state: str, priority: int) -> list[dict[str, Any]]:
    """Return the steps of the chain as Celery's messages have them, the last link first.

    To make them as signatures takes longer than to send the message.
    """
    ahead = workflow.STEPS[workflow.STEPS.index(workflow.STEP_AT[state]) :]
    return [
        {
            "task": STEP_TASKS[step.name].name,
            "args": (issuance_id,),
            "kwargs": {},
            "options": {"expires": settings.RESEND, "priority": priority},
            "subtask_type": None,
            "immutable": True,
        }
        for step in reversed(ahead)
    ]


@shared_task(name="issuance.look")
def look() -> None:
    """Look for a batch of attempts. Send on those whose records every server shows.

    While more are due, one look of this process goes on with the next batch at once. More of them
    would not be faster, because a look needs a core. When its batch takes long, because servers are
    silent, others look at one batch each.
    """
    goes_on = _going.lock.acquire(blocking=False)
    if not goes_on and not _going.is_late:
        return Issuance.objects.put_looks_back()
    try:
        for _look in range(MOST_LOOKS if goes_on else 1):
            if goes_on:
                _going.since = clock.monotonic()
            try:
                with lanes.enter(LOOKS):
                    shown = workflow.look()
            except lanes.Full:
                return Issuance.objects.put_looks_back()
            start_all(shown)
            if stopping.is_set() or not Issuance.objects.needs_look().has_due():
                return None
        return None
    finally:
        if goes_on:
            _going.lock.release()


def start_all(issuance_ids: Iterable[int]) -> None:
    """Send the steps of these attempts, from `validate` on."""
    for issuance_id in issuance_ids:
        start(issuance_id, Issuance.State.PROPAGATED, priority=BEGUN)


@shared_task(name="issuance.cleanup")
def cleanup(record_id: int) -> None:
    under_own_turn(withdraw, record_id)


def withdraw(record_id: int, *, by: Issuance | None = None) -> None:
    """Remove a TXT record that no attempt needs. Notify its owner of a Trouble, and raise it.

    `by` is the attempt whose walk has just ended.
    """
    try:
        txtrecords.withdraw(record_id, by=by)
    except Trouble as trouble:
        notify.cleanup_failed(record_id, trouble)
        raise


@shared_task(name="issuance.revoke")
def revoke(version_id: int) -> None:
    under_own_turn(workflow.revoke, version_id)


@shared_task(name="issuance.renewal_info")
def renewal_info(renewal_info_id: int) -> None:
    under_own_turn(ari.poll, renewal_info_id)


@shared_task(name="issuance.probe")
def probe(probe_id: int) -> None:
    under_own_turn(probes.run, probe_id)
