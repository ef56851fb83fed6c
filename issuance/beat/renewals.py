"""The scan that opens an attempt for each certificate whose renewal is due."""

from collections.abc import Collection, Sequence
from datetime import datetime

import structlog
from celery import shared_task
from django.db import transaction
from django.db.models import Count, F, Max, Q

from certctrl import clock
from issuance import drills, services
from issuance.challenges import delegation
from issuance.models import Certificate, Issuance

logger = structlog.get_logger()
SCAN_BATCH = 500
SOONEST = (F("expires_at").asc(nulls_last=True), "pk")
# The relations that `new_attempts` reads.
CHOSEN_FROM = ("account__staging_account", "fallback_account", "credential")


@shared_task(name="issuance.scan_renewals")
def scan_renewals() -> None:
    """Open an attempt for every certificate that is due, soonest expiry first.

    The sweep sends the messages. A scan that is late or runs twice does no harm, because one
    transaction opens the attempt and clears `renew_at`.
    """
    now = clock.now()
    broken: set[int] = set()
    while ids := due_for_renewal(now, broken):
        try:
            open_renewals(ids, now)
        except Exception:  # one certificate must not stop the others
            logger.exception("renewals.failed", certificates=len(ids))
            broken |= open_one_by_one(ids, now)


def due_for_renewal(now: datetime, but: Collection[int] = ()) -> list[int]:
    """Return the ids of the next batch that is due, soonest expiry first, without those in `but`.

    The query reads only the index `certificates_to_renew`.
    """
    due = Certificate.objects.filter(renew_at__lte=now).exclude(pk__in=but)
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
    """Clear `renew_at` of those that are still due, and open their attempts, in one transaction."""
    with transaction.atomic():
        still_due = Certificate.objects.filter(pk__in=ids, renew_at__lte=now)
        # Locked in one order, so that two scans do not each wait for a row of the other.
        locked = (
            still_due.order_by(*SOONEST)
            .select_related(*CHOSEN_FROM)
            .select_for_update(of=("self",))
        )
        certificates = list(locked)
        Certificate.objects.filter(pk__in=[each.pk for each in certificates]).update(renew_at=None)
        Issuance.objects.bulk_create(new_attempts(certificates))


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
