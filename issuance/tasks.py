"""What workers run. A task carries one id; the row says whether anything is to be done, so a lost or doubled message
changes nothing. A link of a chain that must wait drops what is left of it."""

from collections.abc import Callable, Iterable
from typing import Any

import structlog
from celery import Task, chain, shared_task, signature
from django.conf import settings
from kombu.exceptions import OperationalError

from certctrl import disk
from certctrl.turns import LostTurn, Trouble, Wait
from dnsproviders import records
from issuance import flow, looks, registration, renewalinfo, revocation, telling
from issuance.models import Issuance

logger = structlog.get_logger()

FIRST = 0  # over Redis the lowest number is read first; settings.CELERY_TASK_DEFAULT_PRIORITY is that of all others


def step_task(step: flow.Step) -> "Task[Any, Any]":
    @shared_task(name=f"issuance.{step.name}", bind=True)
    def task(self: "Task[Any, Any]", issuance_id: int) -> None:
        if not flow.take(step, issuance_id):
            self.request.chain = None  # as Ignore does, for which Celery would format a traceback each time

    return task


STEP_TASKS = {step.name: step_task(step) for step in flow.STEPS}


def start(issuance_id: int, state: str = Issuance.State.QUEUED, *, at_once: bool = False) -> bool:
    """Send the chain of the steps still ahead. False when the broker is away: the sweep sends it later.

    `at_once`: its first step goes before all that waits for workers, since a slot of the CA's limits lapses.
    """
    ahead = [
        signature(f"issuance.{step.name}", args=(issuance_id,), immutable=True) for step in flow.steps_ahead(state)
    ]
    for each in ahead:
        each.set(expires=settings.RESEND)
    if at_once:
        ahead[0].set(priority=FIRST)
    return send(lambda: chain(*ahead).apply_async(), issuance=issuance_id)


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


@shared_task(name="issuance.look")
def look() -> None:
    """One look for every attempt that waits for its records; those whose records are seen go on."""
    start_all(looks.look())


def start_all(issuance_ids: Iterable[int]) -> None:
    for issuance_id in issuance_ids:
        start(issuance_id, Issuance.State.PROPAGATED)


def under_own_turn(act: Callable[[int], None], row_id: int) -> None:
    """Wait and Trouble are written in the row by then; here they are only told."""
    try:
        act(row_id)
    except (Wait, Trouble, LostTurn) as why:
        logger.info("turn.ended", row=row_id, why=str(why))
    except Exception:  # the row sleeps by the retry table
        logger.exception("turn.failed", row=row_id)


@shared_task(name="issuance.cleanup")
def cleanup(record_id: int) -> None:
    under_own_turn(withdraw, record_id)


def withdraw(record_id: int) -> None:
    try:
        records.withdraw(record_id, flow.is_needed)
    except Trouble as trouble:
        telling.cleanup_failed(record_id, trouble)
        raise


@shared_task(name="issuance.register")
def register(account_id: int) -> None:
    under_own_turn(registration.register, account_id)


@shared_task(name="issuance.revoke")
def revoke(version_id: int) -> None:
    under_own_turn(revocation.revoke, version_id)


@shared_task(name="issuance.renewal_info")
def renewal_info(renewal_info_id: int) -> None:
    under_own_turn(renewalinfo.poll, renewal_info_id)
