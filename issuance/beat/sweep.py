"""The sweep. It sends a message for each row that is due and has none on its way."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

import structlog
from celery import shared_task
from django.core.cache import cache
from django.db.models import Q, QuerySet

from authorities import registration
from authorities.models import AcmeAccount
from authorities.tasks import register
from certctrl import clock, dispatch
from certctrl.dispatch import admit, admit_fairly, mark, unmark
from certctrl.turns import SWEPT
from dnsproviders.models import TxtRecord
from issuance import tasks, workflow
from issuance.beat import clockstep
from issuance.beat.due import any_is_due
from issuance.challenges import txtrecords
from issuance.models import CertificateVersion, Issuance, RenewalInfo
from issuance.renewal import ari
from notices.models import AT_ONCE as DELIVERIES_AT_ONCE
from notices.models import Delivery
from notices.tasks import deliver

logger = structlog.get_logger()
# Attempts that publish again and are on their way at once. So attempts that wait for lagging
# servers hold up no others.
AGAIN = 100
REPUBLISHING = ("again", None)
# Cleanups of one credential, or revocations of one account, that are on their way at once. Without
# this limit, one dead API could fill the queue.
OF_ONE = dispatch.SHARE // 4
failures_in_a_row: "Counter[str]" = Counter()  # of the sections of the sweep


@shared_task(name="issuance.sweep")
def sweep() -> None:
    """Send a message for every row that is due and has none on its way.

    Only the sweep limits how many messages are on their way. A section that raises is logged and
    counted, and the others run. The sweep counts for `/health` if any section ended, or if no row
    is due.
    """
    now = clock.now()
    run_section(clockstep.put_right, now)
    sections = (
        admit_issuances,
        admit_cleanups,
        admit_registrations,
        admit_revocations,
        admit_renewal_infos,
        admit_deliveries,
    )
    ended = [run_section(section, now) for section in sections] if any_is_due(now) else [True]
    if any(ended):
        cache.set(SWEPT, now.timestamp(), None)


def run_section(section: Callable[[datetime], None], now: datetime) -> bool:
    """Run one section of the sweep. Return whether it ended without an error."""
    name = section.__name__
    try:
        section(now)
    except Exception:
        failures_in_a_row[name] += 1
        logger.exception("sweep.failed", section=name, failures=failures_in_a_row[name])
        return False
    failures_in_a_row.pop(name, None)
    return True


def admit_registrations(now: datetime) -> None:
    admit_fairly(AcmeAccount.objects.all(), now, "owner", registration.AT_ONCE, register)


def admit_revocations(now: datetime) -> None:
    admit_fairly(CertificateVersion.objects.all(), now, "account", OF_ONE, tasks.revoke)


def admit_deliveries(now: datetime) -> None:
    admit_fairly(Delivery.objects.all(), now, "owner", DELIVERIES_AT_ONCE, deliver)


class Candidate(NamedTuple):
    """A due attempt that may get a message. `credential` and `account` are ids."""

    id: int
    state: str
    credential: int | None
    account: int
    holder: str

    @property
    def shares_a_look(self) -> bool:
        """Whether the attempt waits for its records and can share a look with others.

        A row that a dead worker left behind gets a look of its own. It may have killed the worker,
        and in a batch the death would count for all rows.
        """
        return self.state == Issuance.State.PRESENTED and not self.holder


def admit_issuances(now: datetime) -> None:
    """Send the next steps of each due attempt.

    Attempts that wait for their records get one `look` for each 500.
    """
    due = Issuance.objects.sendable(now)
    if not due.exists():
        return None
    chosen = choose(now)
    mark(due, [each.id for each in chosen])
    waiting = [each for each in chosen if each.shares_a_look]
    for _ in range(0, len(waiting), workflow.BATCH):
        if not dispatch.nudge(tasks.look):
            return unmark(due, [each.id for each in chosen])
    alone = [each for each in chosen if not each.shares_a_look]
    for at, each in enumerate(alone):
        if not tasks.start(each.id, each.state):
            return unmark(due, [left.id for left in alone[at:]])
    return None


def choose(now: datetime) -> list[Candidate]:
    """Return the due attempts that get a message now, the longest waiting first.

    At most 1,000 are on their way at once. No credential or account has more than a quarter of
    them while others wait. Attempts that publish again come last.
    """
    again = Q(state=Issuance.State.ORDERED, presents__gt=0)
    every = Issuance.objects.sendable(now).order_by("wake_at")
    due = every.exclude(again)
    busy = on_their_way()
    room = dispatch.MOST_ON_THEIR_WAY - busy.total() // 2
    chosen: list[Candidate] = []
    full: list[tuple[str, int | None]] = []
    while len(chosen) < room:
        full = [
            key for key, count in busy.items() if count >= dispatch.SHARE and key != REPUBLISHING
        ]
        more = candidates(due, full, {each.id for each in chosen}, room - len(chosen))
        if not more:
            break
        for each in more:
            if (
                busy["credential", each.credential] < dispatch.SHARE
                and busy["account", each.account] < dispatch.SHARE
            ):
                busy.update([("credential", each.credential), ("account", each.account)])
                chosen.append(each)
    if full:
        chosen += candidates(due, [], {each.id for each in chosen}, room - len(chosen))
    most = min(room - len(chosen), AGAIN - busy[REPUBLISHING] // 2)
    return chosen + candidates(every.filter(again), [], set(), most)


def on_their_way() -> "Counter[tuple[str, int | None]]":
    """Return twice the number of attempts on their way.

    Each attempt counts once for its credential and once for its account. An attempt that publishes
    again counts twice under REPUBLISHING instead. So the total is always two for each attempt.
    """
    busy: Counter[tuple[str, int | None]] = Counter()
    sent = Issuance.objects.on_their_way()
    for credential, account, state, presents in sent.values_list(
        "credential_id", "account_id", "state", "presents"
    ):
        is_again = presents and state == Issuance.State.ORDERED
        busy.update(
            [REPUBLISHING] * 2 if is_again else [("credential", credential), ("account", account)]
        )
    return busy


def candidates(
    due: QuerySet[Issuance], full: list[tuple[str, int | None]], but: set[int], most: int
) -> list[Candidate]:
    """Return up to `most` of the attempts `due`, without the ids in `but`.

    Attempts of the credentials and accounts in `full` are left out.
    """
    if most <= 0:
        return []
    for kind, pk in full:
        due = due.exclude(**{f"{kind}_id": pk}) if pk else due.exclude(credential=None)
    rows = due.exclude(pk__in=but).values_list(
        "id", "state", "credential_id", "account_id", "holder"
    )
    return [Candidate(*row) for row in rows[:most]]


def admit_cleanups(now: datetime) -> None:
    """Send a cleanup for each due record that no attempt needs.

    One UPDATE moves `wake_at` of the needed records to a later time.
    """
    due = TxtRecord.objects.sendable(now)
    if not due.exists():
        return
    txtrecords.keep_needed(due, now)
    admit_fairly(TxtRecord.objects.all(), now, "credential", OF_ONE, tasks.cleanup)


def admit_renewal_infos(now: datetime) -> None:
    """Send polls of renewal windows, a few for each CA. A CA that is away delays no other."""
    due = RenewalInfo.objects.sendable(now)
    if due.exists():
        admit(due.filter(pk__in=ari.next_ones(due)), tasks.renewal_info)
