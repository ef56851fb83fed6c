"""Write the sentences about rate limits."""

from datetime import datetime, timedelta

from authorities import catalog
from authorities.catalog import LimitKind
from certctrl import clock
from issuance.models import Issuance, LimitBucket

Kind = LimitKind


def sentence(issuance: Issuance, bucket: LimitBucket, at: datetime) -> str:
    """Return the sentence that says which limit the attempt waits for, and about until when."""
    label = catalog.info(issuance.account.ca_provider).label
    limit = catalog.limits_at(bucket.ca).get(bucket.kind)
    counted = COUNTED[Kind(bucket.kind)].format(bucket.label)
    until = f"{issuance.certificate.domain} is ordered at about {at:%Y-%m-%d %H:%M} UTC."
    if not limit or clock.now() < bucket.at:
        return f"{label} asked us to come back later for {counted}: {until}"
    pace = (
        f"{limit.capacity:g} {counted} in {spoken(limit.period)}, then one each"
        f" {spoken(timedelta(seconds=limit.each))}"
    )
    return f"{label} takes {pace}: {until}"


COUNTED = {
    Kind.ACCOUNT: "new orders of the account {}",
    Kind.DOMAIN: "certificates of the registered domain {}",
    Kind.SET: "certificates of exactly the same set of names ({})",
    Kind.FAILURES: "failed validations of the name {}",
    Kind.BUSY: "orders of the account {}",
}


def spoken(period: timedelta) -> str:
    """Return the period in words.

    For example: 7 days, 3 hours, 202 minutes, 36 seconds.
    """
    seconds = period.total_seconds()
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size and (seconds % size == 0 or size == 60):
            return f"{seconds / size:.0f} {unit}s"
    return f"{seconds:g} second" + ("" if seconds == 1 else "s")
