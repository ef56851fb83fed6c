"""Warnings of certificates that end soon, and of TXT records that stay behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import structlog
from celery import shared_task

from certctrl import clock
from dnsproviders.models import TxtRecord
from issuance import notify
from issuance.challenges import dns01

logger = structlog.get_logger()


# --- warnings ---


@shared_task(name="issuance.warn_expiry")
def warn_expiry() -> None:
    """Tell owners of certificates that end soon without a successor, of private CAs that end soon, and of records that
    could not be removed.

    Harmless when late, doubled, or run by two: each is told once.
    """
    now = clock.now()
    for certificate in notify.near_expiry(now):
        with untold("expiring", certificate.pk):
            notify.expiring(certificate, now)
    for private_ca in notify.near_end(now):
        with untold("ca_expiring", private_ca.pk):
            notify.ca_expiring(private_ca, now)
    for record_id in left_behind(now):
        with untold("record_left_behind", record_id):
            notify.left_behind(record_id)


def left_behind(now: datetime) -> list[int]:
    old = notify.in_the_zone_too_long(now)
    needed = dns01.needed_records(TxtRecord.objects.filter(pk__in=old))
    return list(old.exclude(pk__in=needed.values("pk")).values_list("pk", flat=True))


@contextmanager
def untold(kind: str, row_id: int) -> Iterator[None]:
    """One row must not keep the others from being told."""
    try:
        yield
    except Exception:
        logger.exception("notice.not_raised", kind=kind, row=row_id)
