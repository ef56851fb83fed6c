"""Write the sentences about rate limits."""

from datetime import datetime, timedelta

from django.utils.translation import gettext_noop

from authorities import catalog
from authorities.catalog import LimitKind as Kind
from certctrl import clock
from certctrl.sentences import sentence as _
from issuance.models import Issuance, LimitBucket


def sentence(issuance: Issuance, bucket: LimitBucket, at: datetime) -> str:
    """Return the sentence that says which limit the attempt waits for, and about until when."""
    label = catalog.info(issuance.account.ca_provider).label
    limit = catalog.limits_at(bucket.ca).get(bucket.kind)
    counted = _(COUNTED[Kind(bucket.kind)], label=bucket.label)
    until = _(
        "%(domain)s is ordered at about %(at)s UTC.",
        domain=issuance.certificate.domain,
        at=format(at, "%Y-%m-%d %H:%M"),
    )
    if not limit or clock.now() < bucket.at:
        return _(
            "%(label)s asked us to come back later for %(counted)s: %(until)s",
            label=label,
            counted=counted,
            until=until,
        )
    pace = _(
        "%(capacity)s %(counted)s in %(period)s, then one each %(each)s",
        capacity=format(limit.capacity, "g"),
        counted=counted,
        period=spoken(limit.period),
        each=spoken(timedelta(seconds=limit.each)),
    )
    return _("%(label)s takes %(pace)s: %(until)s", label=label, pace=pace, until=until)


COUNTED = {
    Kind.ACCOUNT: gettext_noop("new orders of the account %(label)s"),
    Kind.DOMAIN: gettext_noop("certificates of the registered domain %(label)s"),
    Kind.SET: gettext_noop("certificates of exactly the same set of names (%(label)s)"),
    Kind.FAILURES: gettext_noop("failed validations of the name %(label)s"),
    Kind.BUSY: gettext_noop("orders of the account %(label)s"),
}


SPOKEN = {
    gettext_noop("%(n)s days"): 86400,
    gettext_noop("%(n)s hours"): 3600,
    gettext_noop("%(n)s minutes"): 60,
}


def spoken(period: timedelta) -> str:
    """Return the period in words.

    For example: 7 days, 3 hours, 202 minutes, 36 seconds.
    """
    seconds = period.total_seconds()
    for text, size in SPOKEN.items():
        if seconds >= 2 * size and (seconds % size == 0 or size == 60):
            return _(text, n=f"{seconds / size:.0f}")
    return _("1 second") if seconds == 1 else _("%(n)s seconds", n=f"{seconds:g}")
