"""What workers run. A task carries one id; the row says whether anything is to be done, so a lost or doubled message
changes nothing. A link of a chain that must wait drops what is left of it."""

from collections.abc import Iterable
from typing import Any

from celery import Task, chain, shared_task, signature
from django.conf import settings

from certctrl.dispatch import send, under_own_turn
from certctrl.turns import Trouble
from dnsproviders import records
from issuance import notify, workflow
from issuance.challenges import dns01
from issuance.models import Issuance
from issuance.renewal import ari

FIRST = 0  # over Redis the lowest number is read first; settings.CELERY_TASK_DEFAULT_PRIORITY is that of all others


def step_task(step: workflow.Step) -> "Task[Any, Any]":
    @shared_task(name=f"issuance.{step.name}", bind=True)
    def task(self: "Task[Any, Any]", issuance_id: int) -> None:
        if not workflow.take(step, issuance_id):
            self.request.chain = (
                None  # as Ignore does, for which Celery would format a traceback each time
            )

    return task


STEP_TASKS = {step.name: step_task(step) for step in workflow.STEPS}


def start(issuance_id: int, state: str = Issuance.State.QUEUED, *, at_once: bool = False) -> bool:
    """Send the chain of the steps still ahead. False when the broker is away: the sweep sends it later.

    `at_once`: its first step goes before all that waits for workers, since a slot of the CA's limits lapses.
    """
    ahead = [
        signature(f"issuance.{step.name}", args=(issuance_id,), immutable=True)
        for step in workflow.steps_ahead(state)
    ]
    for each in ahead:
        each.set(expires=settings.RESEND)
    if at_once:
        ahead[0].set(priority=FIRST)
    return send(lambda: chain(*ahead).apply_async(), issuance=issuance_id)


@shared_task(name="issuance.look")
def look() -> None:
    """One look for every attempt that waits for its records; those whose records are seen go on."""
    start_all(workflow.look())


def start_all(issuance_ids: Iterable[int]) -> None:
    for issuance_id in issuance_ids:
        start(issuance_id, Issuance.State.PROPAGATED)


@shared_task(name="issuance.cleanup")
def cleanup(record_id: int) -> None:
    under_own_turn(withdraw, record_id)


def withdraw(record_id: int) -> None:
    try:
        records.withdraw(record_id, dns01.is_needed)
    except Trouble as trouble:
        notify.cleanup_failed(record_id, trouble)
        raise


@shared_task(name="issuance.revoke")
def revoke(version_id: int) -> None:
    under_own_turn(workflow.revoke, version_id)


@shared_task(name="issuance.renewal_info")
def renewal_info(renewal_info_id: int) -> None:
    under_own_turn(ari.poll, renewal_info_id)
