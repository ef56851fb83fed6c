"""The sweep. It sends a message for each row that is due and has none on its way."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
from celery import Task, shared_task
from django.conf import settings
from django.core.cache import cache
from django.db.models import Model

from authorities import catalog
from authorities.models import AcmeAccount
from authorities.tasks import register
from certctrl import clock, dispatch
from certctrl.lanes import Lane
from certctrl.turns import SWEPT
from dnsproviders import registry
from dnsproviders.models import TxtRecord
from issuance import probes, tasks
from issuance.beat import admission, clockstep
from issuance.beat.due import due_tables, next_due
from issuance.beat.rollouts import advance_rollouts
from issuance.challenges import txtrecords
from issuance.models import CertificateVersion, Deployment, Issuance, Probe, RenewalInfo
from issuance.renewal import ari
from notices import delivery
from notices.models import Delivery
from notices.tasks import deliver
from signin.models import MailedCode
from signin.tasks import send_code

logger = structlog.get_logger()
AT_CA = ("ca_provider", "directory_url", "owner")  # of an account: its lane, and the owner
PAUSE_FACTOR = 10  # so the sweep takes a tenth of a core at most
failures_in_a_row: "Counter[str]" = Counter()  # of the sections of the sweep


@shared_task(name="issuance.sweep")
def sweep(seconds: float = 0.0) -> None:
    """Sweep once, and again when a row becomes due within `seconds` from the start.

    So a row does not wait for the next message. The pause is ten times as long as the sweep before,
    or longer.
    """
    start, began = clock.monotonic(), clock.monotonic()
    now = sweep_once()
    while seconds and (at := next_due(now, now + timedelta(seconds=seconds))):
        took = clock.monotonic() - began
        pause = max((at - clock.now()).total_seconds(), PAUSE_FACTOR * took)
        if clock.monotonic() - start + pause >= seconds:
            return
        clock.pause(pause)
        began = clock.monotonic()
        now = sweep_once()


def sweep_once() -> datetime:
    """Send a message for every row that is due and has none on its way. Return the time.

    Only the sweep limits how many messages are on their way. A section that raises is logged and
    counted, and the others run. The sweep counts for `/health` if any section ended, or if there
    was nothing to do.
    """
    now = clock.now()
    run_section("clock", clockstep.put_right, now)
    due = due_tables(now)
    ended = [run_section(model.__name__, SECTIONS[model], now) for model in due]
    if any(ended) or not due:
        cache.set(SWEPT, now.timestamp(), None)
    return now


def run_section(name: str, section: Callable[[datetime], None], now: datetime) -> bool:
    """Run one section of the sweep. Return whether it ended without an error."""
    try:
        section(now)
    except Exception:
        failures_in_a_row[name] += 1
        logger.exception("sweep.failed", section=name, failures=failures_in_a_row[name])
        return False
    failures_in_a_row.pop(name, None)
    return True


def admit_issuances(now: datetime) -> None:
    """Send the next steps of each due attempt.

    Attempts that wait for their records get one `look` for each 500.
    """
    looks, left_behind = admission.to_look_at(now)
    messages = {pk: partial(dispatch.nudge, tasks.look) for pk in looks}
    for each in (*admission.choose(now), *left_behind):
        messages[each.id] = partial(tasks.start, each.id, each.state, priority=each.priority)
    dispatch.send_each(Issuance.objects.sendable(now), messages)


def admit_cleanups(now: datetime) -> None:
    """Send a cleanup for each due record that no attempt needs.

    One UPDATE moves `wake_at` of the needed records to a later time. While that finds many, more
    may be needed, and the next sweep goes on.
    """
    if txtrecords.keep_needed(TxtRecord.objects.sendable(now), now) == txtrecords.MOST_KEPT:
        return
    columns = [f"credential{each}" for each in ("__provider", "__party", "", "__owner")]
    dispatch.admit(TxtRecord.objects.all(), tasks.cleanup, registry.lane_of, columns, now)


def admit_probes(now: datetime) -> None:
    """Send probes, for a quarter of a worker's threads. Many dead addresses hold up nobody.

    Each address is a lane of its own, which is not known to be dead before the first look.
    """
    columns = ("address", "port", "certificate__owner")
    most = max(1, settings.WORKER_CONCURRENCY // 4)
    dispatch.admit(Probe.objects.all(), tasks.probe, probes.lane_of, columns, now, most)


# Tables of which each due row gets a message: the task, the lane, and the columns that name the
# lane and the owner. A CA that is away delays no poll at another.
EACH: dict[Any, tuple["Task[Any, Any]", Callable[..., Lane | None], Sequence[str]]] = {
    AcmeAccount: (register, catalog.lane_of, AT_CA),
    CertificateVersion: (tasks.revoke, catalog.lane_of, [f"account__{each}" for each in AT_CA]),
    RenewalInfo: (tasks.renewal_info, ari.lane_of, [f"version__account__{each}" for each in AT_CA]),
    Delivery: (deliver, delivery.lane_of, ("channel", "webhook__host", "owner")),
    MailedCode: (send_code, lambda: delivery.MAIL, ("user",)),
}
SECTIONS: dict[type[Model], Callable[[datetime], None]] = {
    Issuance: admit_issuances,
    TxtRecord: admit_cleanups,
    Probe: admit_probes,
    Deployment: advance_rollouts,
    **{model: partial(dispatch.admit, model.objects.all(), *each) for model, each in EACH.items()},
}
