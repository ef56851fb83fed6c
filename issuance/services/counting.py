"""Count the certificates of an owner: by condition, and by the days of their renewals and ends."""

from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from django.conf import settings
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce, TruncDate

from accounts.models import User
from certctrl import clock
from devices.models import Device
from issuance.models import Certificate, Deployment, Issuance

DAYS = 90
SOON = timedelta(days=30)


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
    if condition in ("you", "again"):
        failed = Issuance.objects.filter(certificate=OuterRef("pk"), state=Issuance.State.FAILED)
        failing = rows.filter(~is_open, failures__gt=0).annotate(
            last_failure=Coalesce(
                Subquery(failed.order_by("-pk").values("failure")[:1]),
                Value(""),  # it was pruned
            )
        )
        needs = Q(last_failure=Issuance.Failure.PERMANENT) | Q(renew_at=None)
        return failing.filter(needs if condition == "you" else ~needs)
    if condition == "open":
        return rows.filter(is_open)
    return {
        "soon": rows.filter(expires_at__gt=now, expires_at__lte=now + SOON),
        "expired": rows.filter(expires_at__lte=now),
        "new": rows.filter(current=None),
        "off": rows.filter(auto_renew=False),
        "revoked": rows.filter(current__revoked_at__isnull=False),
    }.get(condition, rows)


def deployments_of(owner: User) -> QuerySet[Deployment]:
    """Return which certificates are on which devices of the owner, revoked devices too."""
    return Deployment.objects.filter(device__owner=owner, certificate__retired_at=None)


def not_serving(rows: QuerySet[Deployment]) -> QuerySet[Deployment]:
    """Return the deployments of active devices that do not serve the version they should.

    A device has SERVE_WITHIN seconds for a new version, unless it reports a failure.
    """
    late = clock.now() - timedelta(seconds=settings.SERVE_WITHIN)
    is_due = Q(wanted_at__lte=late) | Q(failed_serial=F("wanted__serial"))
    wanting = rows.filter(is_due, device__status=Device.Status.ACTIVE, wanted__isnull=False)
    return wanting.exclude(served_serial=F("wanted__serial"))


def by_day(rows: QuerySet[Certificate]) -> list[DayCount]:
    """Return the renewals and ends of each of the next 90 days, from today on."""
    now = clock.now()
    renews, ends = _by_day_of(rows, "renew_at", now), _by_day_of(rows, "expires_at", now)
    days = [now.date() + timedelta(days=number) for number in range(DAYS)]
    return [DayCount(day, renews[day], ends[day]) for day in days]


def _by_day_of(rows: QuerySet[Certificate], column: str, now: datetime) -> Counter[date]:
    until = now + timedelta(days=DAYS)
    inside = rows.filter(**{f"{column}__gte": now, f"{column}__lt": until})
    days = inside.order_by().annotate(day=TruncDate(column)).values_list("day")
    return Counter(dict(days.annotate(count=Count("*"))))


def summary(owner: User) -> dict[str, object]:
    """Return the numbers of an owner for a dashboard."""
    rows = of_owner(owner)
    soonest = rows.filter(expires_at__gt=clock.now()).order_by("expires_at", "pk")
    return {
        "total": rows.count(),
        "needs_person": of_condition(rows, "you").count(),
        "retrying": of_condition(rows, "again").count(),
        "in_progress": of_condition(rows, "open").count(),
        "expired": of_condition(rows, "expired").count(),
        "ends_within_30_days": of_condition(rows, "soon").count(),
        "soonest_end": soonest.values_list("expires_at", flat=True).first(),
        "devices": owner.devices.filter(status=Device.Status.ACTIVE).count(),
        "not_serving": not_serving(deployments_of(owner)).count(),
        "days": by_day(rows),
    }
