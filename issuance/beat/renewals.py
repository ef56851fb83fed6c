"""The scan that opens an attempt for each certificate whose renewal is due."""

from collections.abc import Collection, Sequence
from datetime import datetime

import structlog
from celery import shared_task
from django.db import transaction
from django.db.models import Count, F, Q

from certctrl import clock
from issuance import drills, services
from issuance.challenges import delegation
from issuance.models import Certificate, Issuance
from keystore.models import Envelope

logger = structlog.get_logger()
SCAN_BATCH = 500
SOONEST = (F("expires_at").asc(nulls_last=True), "pk")
CHOSEN_FROM = (
    "account__staging_account",
    "fallback_account",
    "credential",
)  # what an attempt is started with


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
        locked = (
            still_due.order_by(*SOONEST)
            .select_related(*CHOSEN_FROM)
            .select_for_update(of=("self",))
        )
        certificates = list(locked)
        Certificate.objects.filter(pk__in=[each.pk for each in certificates]).update(renew_at=None)
        Issuance.objects.bulk_create(new_attempts(certificates))


def new_attempts(certificates: Sequence[Certificate]) -> list[Issuance]:
    """An attempt, not stored yet, for each that may have one."""
    attempts = Issuance.objects.filter(certificate__in=certificates).values("certificate")
    counted = attempts.annotate(
        count=Count("pk"), opens=Count("pk", filter=Q(wake_at__isnull=False))
    )
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
    drills.advance(clock.now())
