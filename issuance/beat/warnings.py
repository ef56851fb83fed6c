"""Warn of certificates that expire soon, and of TXT records that stay in a zone."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import structlog
from celery import shared_task

from certctrl import clock
from dnsproviders.models import TxtRecord
from issuance import notify
from issuance.challenges import txtrecords

logger = structlog.get_logger()


@shared_task(name="issuance.warn_expiry")
def warn_expiry() -> None:
    """Raise notices for certificates, private CAs and TXT records.

    The certificates expire soon and have no successor. The private CAs expire soon. The records
    could not be removed. A run that is late or runs twice does no harm, because each notice is
    raised once.
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
    """Return the ids of old records in a zone that no open attempt needs."""
    old = notify.in_the_zone_too_long(now)
    needed = txtrecords.needed_records(TxtRecord.objects.filter(pk__in=old))
    return list(old.exclude(pk__in=needed.values("pk")).values_list("pk", flat=True))


@contextmanager
def untold(kind: str, row_id: int) -> Iterator[None]:
    """Log an error of the body, so that one row does not stop the notices of others."""
    try:
        yield
    except Exception:
        logger.exception("notice.not_raised", kind=kind, row=row_id)
