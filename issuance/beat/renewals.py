"""The scan that opens an attempt for each certificate whose renewal is due."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime

import structlog
from celery import shared_task
from django.db import transaction
from django.db.models import Count, F, Max, Q, QuerySet

from certctrl import clock
from issuance import drills, ratelimits, services
from issuance.challenges import delegation
from issuance.models import Certificate, Issuance
from issuance.renewal import ari

logger = structlog.get_logger()
SCAN_BATCH = 500
SOONEST = (F("expires_at").asc(nulls_last=True), "pk")
# The relations that are read to make an attempt, and to find its charges.
CHOSEN_FROM = (
    "account__staging_account",
    "fallback_account",
    "credential",
    "current__account",
    "current__renewal_info",
)


@shared_task(name="issuance.scan_renewals")
def scan_renewals() -> None:
    """Open attempts for the certificates that are due, soonest expiry first.

    Those that the CA's limits let order within an hour get an attempt. The others stay due. The
    sweep sends the messages. A scan that is late or runs twice does no harm, because one
    transaction opens the attempt and clears `renew_at`.
    """
    now = clock.now()
    reconsider(now)
    broken: set[int] = set()
    while ids := due_for_renewal(now, broken):
        try:
            open_renewals(ids, now)
        except Exception:  # one certificate must not stop the others
            logger.exception("renewals.failed", certificates=len(ids))
            broken |= open_one_by_one(ids, now)


def reconsider(now: datetime) -> None:
    """Let certificates that are held back be chosen from again.

    For each bucket and owner, these are the next ones for which the bucket has tokens. The rows of
    a bucket without tokens are not read.
    """
    held = Certificate.objects.filter(lacks__isnull=False)
    buckets = list(values_of(held, "lacks"))
    room = ratelimits.Room(buckets)
    for bucket in buckets:
        there = held.filter(lacks=bucket)
        for owner in values_of(there, "owner"):
            most = room.tokens(bucket, owner, SCAN_BATCH)
            due = there.filter(owner=owner, renew_at__lte=now).order_by(*SOONEST)
            ids = list(due.values_list("pk", flat=True)[:most])
            Certificate.objects.filter(pk__in=ids, lacks=bucket).update(lacks=None)


def values_of(rows: QuerySet[Certificate], column: str) -> Iterator[int]:
    """Return the different ids in a column. Each costs one look into the index."""
    last = 0
    while found := rows.filter(**{f"{column}__gt": last}).order_by(column).first():
        last = getattr(found, f"{column}_id")
        yield last


def due_for_renewal(now: datetime, but: Collection[int] = ()) -> list[int]:
    """Return the ids of the next batch that is due, soonest expiry first, without those in `but`.

    The query reads only the index `certificates_to_renew`.
    """
    due = Certificate.objects.filter(renew_at__lte=now, lacks=None).exclude(pk__in=but)
    return list(due.order_by(*SOONEST).values_list("pk", flat=True)[:SCAN_BATCH])


def open_one_by_one(ids: Sequence[int], now: datetime) -> set[int]:
    """Open the attempts one by one. Return the ids that failed; the next scan tries them again."""
    broken = set()
    for certificate_id in ids:
        try:
            open_renewals([certificate_id], now)
        except Exception:
            logger.exception("renewal.failed", certificate=certificate_id)
            broken.add(certificate_id)
    return broken


def open_renewals(ids: Sequence[int], now: datetime) -> None:
    """Open attempts for those that are still due, and clear their `renew_at`, in one transaction.

    Those that are held back stay due.
    """
    with transaction.atomic():
        still_due = Certificate.objects.filter(pk__in=ids, renew_at__lte=now)
        # Locked in one order, so that two scans do not each wait for a row of the other.
        locked = (
            still_due.order_by(*SOONEST)
            .select_related(*CHOSEN_FROM)
            .select_for_update(of=("self",))
        )
        certificates = list(locked)
        attempts = new_attempts(certificates)
        free = [each for each in attempts if not may_be_held_back(each)]
        places, held = ratelimits.choose([each for each in attempts if may_be_held_back(each)])
        for bucket, pks in held.items():
            Certificate.objects.filter(pk__in=pks).update(lacks=bucket)
        handled = {each.pk for each in certificates}.difference(*held.values())
        Certificate.objects.filter(pk__in=handled).update(renew_at=None)
        Issuance.objects.bulk_create([*free, *(place.issuance for place, _ in places)])
        ratelimits.queue_up(places)


def may_be_held_back(issuance: Issuance) -> bool:
    """Return whether the attempt may wait until its tokens are near.

    An order in its renewal window is in no bucket. A renewal with a fallback account must fail
    first, because then the fallback account is tried.
    """
    certificate = issuance.certificate
    is_exempt = ari.known_id(issuance) and ari.is_in_window(issuance)
    return not is_exempt and not (certificate.current_id and certificate.fallback_account_id)


def new_attempts(certificates: Sequence[Certificate]) -> list[Issuance]:
    """Return an attempt that is not stored for each certificate that may have one."""
    attempts = Issuance.objects.filter(certificate__in=certificates).values("certificate")
    counted = attempts.annotate(
        last=Max("number"), opens=Count("pk", filter=Q(wake_at__isnull=False))
    )
    found = {each["certificate"]: each for each in counted}
    credential_ids = delegation.credential_ids_for(certificates)
    made = []
    for certificate in certificates:
        before = found.get(certificate.pk, {"last": 0, "opens": 0})
        if certificate.is_wanted and not before["opens"]:
            reason = Issuance.Reason.RENEWAL if certificate.current_id else Issuance.Reason.NEW
            issuance = services.new_issuance(certificate, reason, credential_ids[certificate.pk])
            issuance.number = before["last"] + 1
            made.append(issuance)
    return made


@shared_task(name="issuance.advance_drills")
def advance_drills() -> None:
    """Bring the next certificates of every running drill forward.

    A run that is late or runs twice does no harm.
    """
    drills.advance(clock.now())
