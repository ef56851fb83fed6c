"""What the clock starts: the sweep that sends what is due, the scan for renewals, the pruning."""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from celery import Task, shared_task
from django.conf import settings
from django.core.cache import cache
from django.db import transaction
from django.db.models import Q, QuerySet

from certctrl import clock
from dnsproviders.models import DnsCredential, TxtRecord
from dnsproviders.records import REST
from issuance import flow, looks, services, tasks
from issuance.models import AcmeAccount, Certificate, CertificateVersion, Issuance
from keystore.models import Envelope

MOST_ON_THEIR_WAY = 1000
SHARE = MOST_ON_THEIR_WAY // 4  # of one credential or account, while others wait
SCAN_BATCH = 500
KEPT_AFTER_FAILURE = timedelta(days=1)


# --- sweep ---


@shared_task(name="issuance.sweep")
def sweep() -> None:
    """Send a message for every row that is due and has none on its way. The only admission there is."""
    now = clock.now()
    admit_issuances(now)
    admit_cleanups(now)
    admit(AcmeAccount.objects.sendable(now), tasks.register)
    admit(CertificateVersion.objects.sendable(now), tasks.revoke)
    cache.set("sweep_ended_at", now.timestamp(), None)


def admit(rows: QuerySet[Any], task: "Task[Any, Any]", most: int = SHARE) -> None:
    """Send the task for up to `most` of these rows, those that waited longest first."""
    for pk in mark(rows, list(rows.order_by("wake_at").values_list("pk", flat=True)[:most])):
        if not tasks.nudge(task, pk):
            return


def mark(rows: QuerySet[Any], ids: list[int]) -> list[int]:
    """Note that a message is on its way, before it is: a worker may be done with it before we are."""
    if ids:
        rows.model._base_manager.filter(pk__in=ids).update(queued_at=clock.now())
    return ids


class Candidate(NamedTuple):
    id: int
    state: str
    credential: int | None
    account: int


def admit_issuances(now: datetime) -> None:
    """Chains for what is due, and one `look` for each 500 that wait for their records."""
    chosen = choose(now)
    mark(Issuance.objects.all(), [each.id for each in chosen])
    waiting = [each for each in chosen if each.state == Issuance.State.PRESENTED]
    for _ in range(0, len(waiting), looks.BATCH):
        tasks.nudge(tasks.look)
    for each in chosen:
        if each.state != Issuance.State.PRESENTED:
            tasks.start(each.id, each.state)


def choose(now: datetime) -> list[Candidate]:
    """Due attempts, the longest waiting first, so that at most 1,000 are on their way, and no credential or account
    has more than a quarter of them while others wait."""
    due = Issuance.objects.sendable(now).order_by("wake_at")
    busy = on_their_way(now)
    room = MOST_ON_THEIR_WAY - busy.total() // 2
    chosen: list[Candidate] = []
    while len(chosen) < room:
        full = [key for key, count in busy.items() if count >= SHARE]
        more = candidates(due, full, {each.id for each in chosen}, room - len(chosen))
        if not more:
            break
        for each in more:
            if busy["credential", each.credential] < SHARE and busy["account", each.account] < SHARE:
                busy.update([("credential", each.credential), ("account", each.account)])
                chosen.append(each)
    return chosen + candidates(due, [], {each.id for each in chosen}, room - len(chosen))


def on_their_way(now: datetime) -> "Counter[tuple[str, int | None]]":
    """How many messages each credential and each account has on its way: every attempt counts twice."""
    since = now - timedelta(seconds=settings.RESEND)
    busy: Counter[tuple[str, int | None]] = Counter()
    sent = Issuance.objects.open().filter(queued_at__gte=since)
    for credential, account in sent.values_list("credential_id", "account_id"):
        busy.update([("credential", credential), ("account", account)])
    return busy


def candidates(
    due: QuerySet[Issuance], full: list[tuple[str, int | None]], but: set[int], most: int
) -> list[Candidate]:
    """Up to `most` due attempts, none of a credential or account that has its share."""
    if most <= 0:
        return []
    for kind, pk in full:
        due = due.exclude(**{f"{kind}_id": pk}) if pk else due.exclude(credential=None)
    rows = due.exclude(pk__in=but).values_list("id", "state", "credential_id", "account_id")
    return [Candidate(*row) for row in rows[:most]]


def admit_cleanups(now: datetime) -> None:
    """Records that are needed go back to rest in one UPDATE; the others are cleaned up."""
    due = TxtRecord.objects.sendable(now)
    flow.needed_records(due).filter(holder="").update(wake_at=now + REST, queued_at=None)
    admit(due, tasks.cleanup)


# --- renewals ---


@shared_task(name="issuance.scan_renewals")
def scan_renewals() -> None:
    """Open an attempt for every certificate whose moment has come, soonest expiry first. Sends nothing: the sweep does.

    Harmless when late, doubled, or run by two: opening and clearing `renew_at` are one transaction.
    """
    now = clock.now()
    while ids := due_for_renewal(now):
        for certificate_id in ids:
            open_renewal(certificate_id, now)


def due_for_renewal(now: datetime) -> list[int]:
    due = Certificate.objects.filter(renew_at__lte=now).order_by("expires_at", "pk")
    return list(due.values_list("pk", flat=True)[:SCAN_BATCH])


def open_renewal(certificate_id: int, now: datetime) -> None:
    """Clear `renew_at` and open the attempt, or neither."""
    with transaction.atomic():
        if not Certificate.objects.filter(pk=certificate_id, renew_at__lte=now).update(renew_at=None):
            return
        certificate = Certificate.objects.get(pk=certificate_id)
        if certificate.retired_at or certificate.open_issuance():
            return
        reason = Issuance.Reason.RENEWAL if certificate.current_id else Issuance.Reason.NEW
        services.open_issuance(certificate, reason)


# --- pruning ---


@shared_task(name="issuance.prune")
def prune() -> None:
    """Destroy the keys of attempts that failed, and the secrets of retired credentials whose records are all gone."""
    prune_failed_keys()
    prune_retired_credentials()


def prune_failed_keys() -> None:
    """An attempt whose CSR was sent keeps its key as long as its order lives: the next attempt may take it over."""
    now = clock.now()
    ended = Issuance.objects.filter(state__in=[Issuance.State.FAILED, Issuance.State.CANCELED], key__isnull=False)
    over = ended.filter(ended_at__lt=now - KEPT_AFTER_FAILURE).filter(Q(csr_sent_at=None) | Q(order_expires_at__lt=now))
    for issuance_id, key_id in over.values_list("pk", "key"):
        with transaction.atomic():
            Issuance.objects.filter(pk=issuance_id).update(key=None)
            Envelope.objects.filter(pk=key_id).delete()


def prune_retired_credentials() -> None:
    retired = DnsCredential.objects.filter(retired_at__isnull=False, secret__isnull=False)
    in_use = TxtRecord.objects.in_the_zone().values("credential")
    for credential_id, secret_id in retired.exclude(pk__in=in_use).values_list("pk", "secret"):
        with transaction.atomic():
            DnsCredential.objects.filter(pk=credential_id).update(secret=None)
            Envelope.objects.filter(pk=secret_id).delete()
