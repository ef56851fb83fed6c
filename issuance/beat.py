"""What the clock starts: the sweep that sends what is due, the scan for renewals, the pruning."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import structlog
from celery import Task, shared_task
from django.core.cache import cache
from django.db import transaction
from django.db.models import Count, F, Q, QuerySet, Value
from django.db.models.functions import Least

from certctrl import clock
from certctrl.turns import SKEW, SWEPT, TurnsQuerySet
from dnsproviders.models import DnsCredential, TxtRecord
from dnsproviders.records import REST
from issuance import (
    clockstep,
    delegation,
    drill,
    exchanges,
    flow,
    limits,
    looks,
    registration,
    renewalinfo,
    services,
    tasks,
    telling,
)
from issuance.models import AcmeAccount, Certificate, CertificateVersion, Issuance, RenewalInfo
from keystore.models import Envelope
from notices.models import AT_ONCE as DELIVERIES_AT_ONCE
from notices.models import Delivery
from notices.tasks import deliver

logger = structlog.get_logger()

MOST_ON_THEIR_WAY = 1000
SHARE = MOST_ON_THEIR_WAY // 4  # of one credential or account, while others wait
AGAIN = 100  # that publish again are on their way at once: whoever waits for lagging servers stands in nobody's way
REPUBLISHING = ("again", None)
OF_ONE = SHARE // 4  # cleanups of one credential, revocations of one account: at any time, or a dead API fills all
SCAN_BATCH = 500
SOONEST = (F("expires_at").asc(nulls_last=True), "pk")
CHOSEN_FROM = ("account__staging_account", "fallback_account", "credential")  # what an attempt is started with
KEPT_AFTER_FAILURE = timedelta(days=1)


# --- sweep ---


@shared_task(name="issuance.sweep")
def sweep() -> None:
    """Send a message for every row that is due and has none on its way. The only admission there is."""
    now = clock.now()
    clockstep.put_right(now)
    admit_issuances(now, granted_slots())
    admit_cleanups(now)
    admit_fairly(AcmeAccount.objects.all(), now, "owner", registration.AT_ONCE, tasks.register)
    admit_fairly(CertificateVersion.objects.all(), now, "account", OF_ONE, tasks.revoke)
    admit_renewal_infos(now)
    admit_fairly(Delivery.objects.all(), now, "owner", DELIVERIES_AT_ONCE, deliver)
    cache.set(SWEPT, now.timestamp(), None)


def granted_slots() -> list[int]:
    """The attempts whose turn at their CA has come. Whatever is wrong with the limits keeps nothing else waiting."""
    try:
        return limits.grant()
    except Exception:
        logger.exception("limits.failed")
        return []


def admit(rows: TurnsQuerySet[Any], task: "Task[Any, Any]", most: int = SHARE) -> None:
    """Send the task for these rows, those that waited longest first, so that up to `most` are on their way."""
    ids = list(rows.order_by("wake_at").values_list("pk", flat=True)[:most])
    if not ids:
        return None
    ids = ids[: max(0, most - rows.model._default_manager.on_their_way().count())]
    mark(rows, ids)
    for at, pk in enumerate(ids):
        if not tasks.nudge(task, pk):
            return unmark(rows, ids[at:])
    return None


def admit_fairly(rows: TurnsQuerySet[Any], now: datetime, of: str, most: int, task: "Task[Any, Any]") -> None:
    """The same for what is sendable, with no more than `most` on their way that have the same `of`."""
    if rows.sendable(now).exists():
        admit(rows.sendable_of_each(now, of, most), task)


def mark(rows: QuerySet[Any], ids: Sequence[int]) -> None:
    """Note that a message is on its way, before it is: a worker may be done with it before we are. What nobody holds is
    due a little earlier, so that a worker whose clock is behind finds it due."""
    now = clock.now()
    rows.filter(pk__in=ids, holder="").update(wake_at=Least(F("wake_at"), Value(now - SKEW)))
    rows.filter(pk__in=ids).update(queued_at=now)


def unmark(rows: QuerySet[Any], ids: Sequence[int]) -> None:
    """The broker is away: nothing was sent for these."""
    rows.model._base_manager.filter(pk__in=ids, holder="").update(queued_at=None)


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
    for _ in range(0, len(waiting), looks.BATCH):
        if not tasks.nudge(tasks.look):
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
    room = MOST_ON_THEIR_WAY - busy.total() // 2
    chosen: list[Candidate] = []
    full: list[tuple[str, int | None]] = []
    while len(chosen) < room:
        full = [key for key, count in busy.items() if count >= SHARE and key != REPUBLISHING]
        more = candidates(due, full, {each.id for each in chosen}, room - len(chosen))
        if not more:
            break
        for each in more:
            if busy["credential", each.credential] < SHARE and busy["account", each.account] < SHARE:
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
    for credential, account, state, presents in sent.values_list("credential_id", "account_id", "state", "presents"):
        is_again = presents and state == Issuance.State.ORDERED
        busy.update([REPUBLISHING] * 2 if is_again else [("credential", credential), ("account", account)])
    return busy


def candidates(
    due: QuerySet[Issuance], full: list[tuple[str, int | None]], but: set[int], most: int
) -> list[Candidate]:
    """Up to `most` due attempts, none of a credential or account that has its share."""
    if most <= 0:
        return []
    for kind, pk in full:
        due = due.exclude(**{f"{kind}_id": pk}) if pk else due.exclude(credential=None)
    rows = due.exclude(pk__in=but).values_list("id", "state", "credential_id", "account_id", "holder")
    return [Candidate(*row) for row in rows[:most]]


def admit_cleanups(now: datetime) -> None:
    """Records that are needed go back to rest in one UPDATE; the others are cleaned up."""
    due = TxtRecord.objects.sendable(now)
    if not due.exists():
        return
    flow.needed_records(due).filter(holder="").update(wake_at=now + REST, queued_at=None)
    admit_fairly(TxtRecord.objects.all(), now, "credential", OF_ONE, tasks.cleanup)


def admit_renewal_infos(now: datetime) -> None:
    """A few of each CA at a time: one that is away holds up nobody else's."""
    due = RenewalInfo.objects.sendable(now)
    if due.exists():
        admit(due.filter(pk__in=renewalinfo.next_ones(due)), tasks.renewal_info)


# --- renewals ---


@shared_task(name="issuance.scan_renewals")
def scan_renewals() -> None:
    """Open an attempt for every certificate whose moment has come, soonest expiry first. Sends nothing: the sweep does.

    Harmless when late, doubled, or run by two: opening and clearing `renew_at` are one transaction.
    """
    now = clock.now()
    broken: set[int] = set()
    while ids := due_for_renewal(now, broken):
        try:
            open_renewals(ids, now)
        except Exception:  # one certificate must not keep the others from being renewed
            logger.exception("renewals.failed", certificates=len(ids))
            broken |= open_one_by_one(ids, now)


def due_for_renewal(now: datetime, but: Collection[int] = ()) -> list[int]:
    """The next batch, soonest expiry first. Reads the index `certificates_to_renew`, and nothing else."""
    due = Certificate.objects.filter(renew_at__lte=now).exclude(pk__in=but)
    return list(due.order_by(*SOONEST).values_list("pk", flat=True)[:SCAN_BATCH])


def open_one_by_one(ids: Sequence[int], now: datetime) -> set[int]:
    """Those that break, and are left to the next scan."""
    broken = set()
    for certificate_id in ids:
        try:
            open_renewals([certificate_id], now)
        except Exception:
            logger.exception("renewal.failed", certificate=certificate_id)
            broken.add(certificate_id)
    return broken


def open_renewals(ids: Sequence[int], now: datetime) -> None:
    """Clear `renew_at` of those that are due still and open their attempts, or neither."""
    with transaction.atomic():
        still_due = Certificate.objects.filter(pk__in=ids, renew_at__lte=now)
        # Locked in one order: two scans would each wait for a row of the other.
        locked = still_due.order_by(*SOONEST).select_related(*CHOSEN_FROM).select_for_update(of=("self",))
        certificates = list(locked)
        Certificate.objects.filter(pk__in=[each.pk for each in certificates]).update(renew_at=None)
        Issuance.objects.bulk_create(new_attempts(certificates))


def new_attempts(certificates: Sequence[Certificate]) -> list[Issuance]:
    """An attempt, not stored yet, for each that may have one."""
    attempts = Issuance.objects.filter(certificate__in=certificates).values("certificate")
    counted = attempts.annotate(count=Count("pk"), opens=Count("pk", filter=Q(wake_at__isnull=False)))
    found = {each["certificate"]: each for each in counted}
    credential_ids = delegation.credential_ids_for(certificates)
    made = []
    for certificate in certificates:
        before = found.get(certificate.pk, {"count": 0, "opens": 0})
        if may_renew(certificate) and not before["opens"]:
            reason = Issuance.Reason.RENEWAL if certificate.current_id else Issuance.Reason.NEW
            issuance = services.new_issuance(certificate, reason, credential_ids[certificate.pk])
            issuance.number = before["count"] + 1
            made.append(issuance)
    return made


def may_renew(certificate: Certificate) -> bool:
    unwanted = certificate.current_id and not certificate.auto_renew
    keyless = certificate.key_policy == Envelope.Policy.DEVICE_REQUIRED  # no device could open it
    return not (certificate.retired_at or unwanted or keyless)


@shared_task(name="issuance.advance_drills")
def advance_drills() -> None:
    """Bring the next certificates of every running drill forward. Harmless when late or doubled."""
    drill.advance(clock.now())


# --- warnings ---


@shared_task(name="issuance.warn_expiry")
def warn_expiry() -> None:
    """Tell owners of certificates that end soon without a successor, of private CAs that end soon, and of records that
    could not be removed.

    Harmless when late, doubled, or run by two: each is told once.
    """
    now = clock.now()
    for certificate in telling.near_expiry(now):
        with untold("expiring", certificate.pk):
            telling.expiring(certificate, now)
    for private_ca in telling.near_end(now):
        with untold("ca_expiring", private_ca.pk):
            telling.ca_expiring(private_ca, now)
    for record_id in left_behind(now):
        with untold("record_left_behind", record_id):
            telling.left_behind(record_id)


def left_behind(now: datetime) -> list[int]:
    old = telling.in_the_zone_too_long(now)
    needed = flow.needed_records(TxtRecord.objects.filter(pk__in=old))
    return list(old.exclude(pk__in=needed.values("pk")).values_list("pk", flat=True))


@contextmanager
def untold(kind: str, row_id: int) -> Iterator[None]:
    """One row must not keep the others from being told."""
    try:
        yield
    except Exception:
        logger.exception("notice.not_raised", kind=kind, row=row_id)


# --- pruning ---


@shared_task(name="issuance.prune")
def prune() -> None:
    """Destroy the keys of attempts that failed or only proved, the secrets of retired credentials whose records are all
    gone, and old exchanges with CAs. Before that, correct what a clock that was ahead has left behind."""
    clockstep.correct(clock.now())
    for what in (prune_keys, prune_retired_credentials, limits.prune, exchanges.prune):
        try:
            what()
        except Exception:  # what cannot be pruned must not keep the rest
            logger.exception("prune.failed", what=f"{what.__module__}.{what.__name__}")


def prune_keys() -> None:
    """An attempt whose CSR was sent keeps its key as long as its order lives: the next attempt may take it over. What
    only proved, at staging, is taken over by nobody."""
    now, State = clock.now(), Issuance.State
    is_over = Q(csr_sent_at=None) | Q(order_expires_at=None) | Q(order_expires_at__lt=now)
    failed = Q(is_over, state__in=[State.FAILED, State.CANCELED], ended_at__lt=now - KEPT_AFTER_FAILURE)
    proved = Q(state=State.ISSUED, proves=True)
    over = Issuance.objects.filter(failed | proved, key__isnull=False)
    for issuance_id, key_id in over.values_list("pk", "key"):
        with transaction.atomic():
            Issuance.objects.filter(pk=issuance_id).update(key=None)
            destroy_unless_held(key_id)


def destroy_unless_held(key_id: int) -> None:
    """Another attempt may have taken the key over meanwhile, or a version may have it."""
    if not any(holder.objects.filter(key=key_id).exists() for holder in (Issuance, CertificateVersion)):
        Envelope.objects.filter(pk=key_id).delete()


def prune_retired_credentials() -> None:
    retired = DnsCredential.objects.filter(retired_at__isnull=False, secret__isnull=False)
    has_records = Q(pk__in=TxtRecord.objects.in_the_zone().values("credential"))
    is_used = Q(pk__in=Issuance.objects.open().filter(credential__isnull=False).values("credential"))
    for credential_id, secret_id in retired.exclude(has_records | is_used).values_list("pk", "secret"):
        with transaction.atomic():
            DnsCredential.objects.filter(pk=credential_id).update(secret=None)
            Envelope.objects.filter(pk=secret_id).delete()
