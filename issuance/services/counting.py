"""Count the certificates of an owner: by condition, and by the days of their renewals and ends."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Sum

from accounts.models import User
from certctrl import clock
from devices.models import Device
from issuance.models import (
    NOT_SERVED,
    Certificate,
    CertificateCount,
    CertificateVersion,
    Deployment,
    Issuance,
)

Kind = CertificateCount.Kind
DAYS = 90
SOON = timedelta(days=30)
MOST_COUNTED = 1000


@dataclass(frozen=True)
class DayCount:
    """How many certificates renew and how many end on a day, in UTC."""

    day: date
    renews: int
    ends: int


def of_owner(owner: User) -> QuerySet[Certificate]:
    return Certificate.objects.filter(owner=owner, retired_at=None)


def of_condition(rows: QuerySet[Certificate], condition: str) -> QuerySet[Certificate]:
    """Return the certificates in a condition; all of them for an unknown condition.

    - `you`: they fail, and a person must act
    - `again`: they fail, and are tried again
    - `open`: an attempt is in progress
    - `soon`: they end within 30 days
    - `expired`, `new` (never issued), `off` (renewal is off), `revoked`
    """
    now = clock.now()
    is_open = Exists(Issuance.objects.open().filter(certificate=OuterRef("pk")))
    if condition == "you":
        return rows.filter(~is_open, needs_person=True)
    if condition == "again":
        return rows.filter(~is_open, failures__gt=0, needs_person=False)
    if condition == "open":
        return rows.filter(pk__in=Issuance.objects.open().values("certificate"))
    revoked = CertificateVersion.objects.filter(revoked_at__isnull=False).values("certificate")
    return {
        "soon": rows.filter(expires_at__gt=now, expires_at__lte=now + SOON),
        "expired": rows.filter(expires_at__lte=now),
        "new": rows.filter(current=None),
        "off": rows.filter(auto_renew=False),
        "revoked": rows.filter(pk__in=revoked, current__revoked_at__isnull=False),
    }.get(condition, rows)


def deployments_of(owner: User) -> QuerySet[Deployment]:
    """Return which certificates are on which devices of the owner, revoked devices too."""
    return Deployment.objects.filter(device__owner=owner, certificate__retired_at=None)


def not_serving(rows: QuerySet[Deployment]) -> QuerySet[Deployment]:
    """Return the deployments of active devices that do not serve the version they should.

    A device has SERVE_WITHIN seconds for a new version, unless it reports a failure.
    """
    late = clock.now() - timedelta(seconds=settings.SERVE_WITHIN)
    is_due = Q(wanted_at__lte=late) | Q(failed_serial=F("wanted_serial"))
    return rows.filter(NOT_SERVED, is_due, device__status=Device.Status.ACTIVE)


def soonest(owner: User) -> Certificate | None:
    """Return the certificate in use that ends first. It was issued, and is not revoked."""
    valid = of_owner(owner).filter(expires_at__gt=clock.now(), current__revoked_at=None)
    return valid.order_by("expires_at", "pk").first()


def count(rows: QuerySet[Any]) -> int:
    """Return the number of rows, at most MOST_COUNTED."""
    return rows.order_by()[:MOST_COUNTED].count()


def count_read(read: Sequence[Any], most: int, rows: QuerySet[Any]) -> int:
    """Return count(rows) after the first `most` of the rows were read.

    They are not counted when fewer were read.
    """
    return len(read) if len(read) < most else count(rows)


def total(owner: User) -> int:
    return _sums(Q(kind=Kind.ALL), owner)[Kind.ALL, None]


def total_and_days(owner: User) -> tuple[int, list[DayCount]]:
    """Return total(), and the renewals and ends of each of the next 90 days with all of today."""
    today = clock.now().date()
    days = [today + timedelta(days=number) for number in range(DAYS)]
    inside = Q(kind__in=(Kind.RENEWS, Kind.ENDS), day__range=(days[0], days[-1]))
    sums = _sums(Q(kind=Kind.ALL) | inside, owner)
    counts = [DayCount(day, sums[Kind.RENEWS, day], sums[Kind.ENDS, day]) for day in days]
    return sums[Kind.ALL, None], counts


def _sums(which: Q, owner: User) -> Counter[tuple[str, date | None]]:
    rows = CertificateCount.objects.filter(which, owner=owner).order_by()
    summed = rows.values_list("kind", "day").annotate(Sum("number"))
    return Counter({(kind, day): number for kind, day, number in summed})


def add_up() -> None:
    """Replace the rows of each count by one row. The task `prune` calls this each hour."""
    new = CertificateCount.objects.filter(is_sum=False)
    for owner in list(new.order_by().values_list("owner", flat=True).distinct()):
        with transaction.atomic():
            # Two tasks at the same time each add up the rows that the other has not locked.
            rows = CertificateCount.objects.filter(owner=owner)
            found = list(rows.select_for_update(skip_locked=True))
            sums: Counter[tuple[str, date | None]] = Counter()
            for each in found:
                sums[each.kind, each.day] += each.number
            rows.filter(pk__in=[each.pk for each in found]).delete()
            CertificateCount.objects.bulk_create(
                CertificateCount(owner_id=owner, kind=kind, day=day, number=number, is_sum=True)
                for (kind, day), number in sums.items()
                if number
            )


def summary(owner: User) -> dict[str, object]:
    """Return the numbers of an owner for a dashboard."""
    rows = of_owner(owner)
    first = soonest(owner)
    all_of, days = total_and_days(owner)
    return {
        "total": all_of,
        "needs_person": of_condition(rows, "you").count(),
        "retrying": of_condition(rows, "again").count(),
        "in_progress": of_condition(rows, "open").count(),
        "expired": of_condition(rows, "expired").count(),
        "ends_within_30_days": of_condition(rows, "soon").count(),
        "soonest_end": first.expires_at if first else None,
        "devices": owner.devices.filter(status=Device.Status.ACTIVE).count(),
        "not_serving": not_serving(deployments_of(owner)).count(),
        "days": days,
    }
