"""The tasks that workers run.

A task carries one id. The row says what is to be done, so a message that is lost or sent twice
changes nothing.
"""

from collections.abc import Iterable
from typing import Any

from celery import Task, shared_task
from django.conf import settings

from certctrl import lanes
from certctrl.dispatch import send, under_own_turn
from certctrl.turns import Trouble, stopping
from issuance import notify, probes, workflow
from issuance.challenges import txtrecords
from issuance.models import Issuance
from issuance.renewal import ari

MOST_LOOKS = 20  # batches of one message
FIRST, LATER = 0, 9  # priorities of Celery's transport for Redis, where 0 goes first


def step_task(step: workflow.Step) -> "Task[Any, Any]":
    """Return the Celery task that takes `step` for one attempt, and the steps after it."""

    @shared_task(name=f"issuance.{step.name}", bind=True)
    def task(self: "Task[Any, Any]", issuance_id: int) -> None:
        if later := workflow.walk(step, issuance_id):
            priority = (self.request.delivery_info or {}).get("priority")
            start(issuance_id, later.state, goes_first=priority != LATER)

    return task


LOOKS = lanes.Lane("looks", "the name servers")
STEP_TASKS = {step.name: step_task(step) for step in workflow.STEPS}


def start(issuance_id: int, state: str = Issuance.State.QUEUED, *, goes_first: bool = True) -> bool:
    """Send the step that an attempt in `state` has to take next.

    Workers take messages that go first before all others. Return False when the broker is away;
    the sweep sends them later.
    """
    task = STEP_TASKS[workflow.STEP_AT[state].name]
    priority = FIRST if goes_first else LATER
    return send(
        lambda: task.apply_async((issuance_id,), expires=settings.RESEND, priority=priority),
        issuance=issuance_id,
    )


@shared_task(name="issuance.look")
def look() -> None:
    """Look for batches of attempts. Send on those whose records every server shows.

    While more are due, the next batch follows at once. Looks that last long leave threads for
    others. The sweep then sends this one again.
    """
    for _ in range(MOST_LOOKS):
        try:
            with lanes.enter(LOOKS):
                shown = workflow.look()
        except lanes.Full:
            return Issuance.objects.put_looks_back()
        start_all(shown)
        if stopping.is_set() or not Issuance.objects.needs_look().exists():
            return None
    return None


def start_all(issuance_ids: Iterable[int]) -> None:
    """Send the steps of these attempts, from `validate` on."""
    for issuance_id in issuance_ids:
        start(issuance_id, Issuance.State.PROPAGATED)


@shared_task(name="issuance.cleanup")
def cleanup(record_id: int) -> None:
    under_own_turn(withdraw, record_id)


def withdraw(record_id: int) -> None:
    """Remove a TXT record that no attempt needs. Notify its owner of a Trouble, and raise it."""
    try:
        txtrecords.withdraw(record_id)
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
