"""The sweep: a message for each row that is due and has none on its way."""

from collections import Counter
from collections.abc import Collection
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
from dnsproviders.records import REST
from issuance import ratelimits, tasks, workflow
from issuance.beat import clockstep
from issuance.challenges import dns01
from issuance.models import CertificateVersion, Issuance, RenewalInfo
from issuance.renewal import ari
from notices.models import AT_ONCE as DELIVERIES_AT_ONCE
from notices.models import Delivery
from notices.tasks import deliver

logger = structlog.get_logger()
AGAIN = 100  # that publish again are on their way at once: whoever waits for lagging servers stands in nobody's way
REPUBLISHING = ("again", None)
OF_ONE = (
    dispatch.SHARE // 4
)  # cleanups of one credential, revocations of one account: at any time, or a dead API fills all


# --- sweep ---


@shared_task(name="issuance.sweep")
def sweep() -> None:
    """Send a message for every row that is due and has none on its way. The only admission there is."""
    now = clock.now()
    clockstep.put_right(now)
    admit_issuances(now, granted_slots())
    admit_cleanups(now)
    admit_fairly(AcmeAccount.objects.all(), now, "owner", registration.AT_ONCE, register)
    admit_fairly(CertificateVersion.objects.all(), now, "account", OF_ONE, tasks.revoke)
    admit_renewal_infos(now)
    admit_fairly(Delivery.objects.all(), now, "owner", DELIVERIES_AT_ONCE, deliver)
    cache.set(SWEPT, now.timestamp(), None)


def granted_slots() -> list[int]:
    """The attempts whose turn at their CA has come. Whatever is wrong with the limits keeps nothing else waiting."""
    try:
        return ratelimits.grant()
    except Exception:
        logger.exception("limits.failed")
        return []


class Candidate(NamedTuple):
    id: int
    state: str
    credential: int | None
    account: int
    holder: str

    @property
    def shares_a_look(self) -> bool:
        """It waits for its records. A row that a dead worker left behind is looked at alone: it may be what killed it,
        and the deaths would count for all of its batch."""
        return self.state == Issuance.State.PRESENTED and not self.holder


def admit_issuances(now: datetime, granted: Collection[int] = ()) -> None:
    """Chains for what is due, those that were granted a slot first, and one `look` for each 500 that wait for their
    records."""
    due = Issuance.objects.sendable(now)
    if not due.exists():
        return None
    first = candidates(due.filter(pk__in=granted), [], set(), len(granted))
    ids = {each.id for each in first}
    chosen = first + [each for each in choose(now) if each.id not in ids]
    mark(due, [each.id for each in chosen])
    waiting = [each for each in chosen if each.shares_a_look]
    for _ in range(0, len(waiting), workflow.BATCH):
        if not dispatch.nudge(tasks.look):
            return unmark(due, [each.id for each in chosen])
    chains = [each for each in chosen if not each.shares_a_look]
    for at, each in enumerate(chains):
        if not tasks.start(each.id, each.state, at_once=each.id in granted):
            return unmark(due, [left.id for left in chains[at:]])
    return None


def choose(now: datetime) -> list[Candidate]:
    """Due attempts, the longest waiting first, so that at most 1,000 are on their way, and no credential or account
    has more than a quarter of them while others wait."""
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
    """How many messages each credential and each account has on its way, and those that publish again: every attempt
    counts twice."""
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
    """Up to `most` due attempts, none of a credential or account that has its share."""
    if most <= 0:
        return []
    for kind, pk in full:
        due = due.exclude(**{f"{kind}_id": pk}) if pk else due.exclude(credential=None)
    rows = due.exclude(pk__in=but).values_list(
        "id", "state", "credential_id", "account_id", "holder"
    )
    return [Candidate(*row) for row in rows[:most]]


def admit_cleanups(now: datetime) -> None:
    """Records that are needed go back to rest in one UPDATE; the others are cleaned up."""
    due = TxtRecord.objects.sendable(now)
    if not due.exists():
        return
    dns01.needed_records(due).filter(holder="").update(wake_at=now + REST, queued_at=None)
    admit_fairly(TxtRecord.objects.all(), now, "credential", OF_ONE, tasks.cleanup)


def admit_renewal_infos(now: datetime) -> None:
    """A few of each CA at a time: one that is away holds up nobody else's."""
    due = RenewalInfo.objects.sendable(now)
    if due.exists():
        admit(due.filter(pk__in=ari.next_ones(due)), tasks.renewal_info)
