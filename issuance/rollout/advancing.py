"""Give the next version to devices: all at once, or after one of them has proved it.

Each deployment wants one version. Its device may fetch only that. `wake_at` is when the deployment
is looked at again. The caller of each function has locked the certificate.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Case, Q, QuerySet, When

from certctrl import clock
from devices import signals
from devices.models import Device
from issuance import notify, wraps
from issuance.models import Certificate, CertificateVersion, Deployment
from issuance.rollout import windows

BATCH = 500  # deployments of one certificate at a time
RECHECK = timedelta(hours=1)  # until a device that is held back is looked at again
SAFE_PART = 12  # of the life of a version: what is left when its successor waits no longer


def begin(certificate: Certificate) -> None:
    """Offer the current version to all devices. Call this when it is stored."""
    wake(certificate)
    advance(certificate, clock.now())


def wake(certificate: Certificate) -> None:
    """Let the sweep look at the devices that do not want the current version yet."""
    behind = certificate.deployments.exclude(wanted=certificate.current_id)
    behind.update(wake_at=clock.now())


def reach(certificate: Certificate, devices: Iterable[int]) -> None:
    """Let these devices fetch the current version at once, and notify them."""
    current = certificate.current
    rows = _active(certificate).filter(device__in=[*devices])
    ids = list(rows.values_list("device", flat=True))
    if not current or not ids:
        return
    now = clock.now()
    new = certificate.deployments.filter(device__in=ids).exclude(wanted=current)
    if new.update(wanted=current, wanted_at=now, wake_at=late_at(now)):
        wraps.remove_replaced(certificate)
    signals.emit(ids, "cert.updated", {"cert_id": certificate.pk, "serial": current.serial})


def advance(certificate: Certificate, now: datetime) -> None:
    """Act on the deployments that are due, at most BATCH of them.

    Devices get the current version when it is their turn. A notice names those that had it for
    long and do not serve it.
    """
    current = certificate.current
    due = certificate.deployments.filter(wake_at__lte=now)
    if current is None:
        due.update(wake_at=None)
        return
    due.exclude(device__status=Device.Status.ACTIVE).update(wake_at=None)
    rows = list(due.select_related("wanted", "device").order_by("wake_at", "pk")[:BATCH])
    behind = [row for row in rows if row.wanted_id != current.pk]
    _offer(certificate, behind, now)
    _look_after(certificate, [row for row in rows if row.wanted_id == current.pk], now)


def _offer(certificate: Certificate, behind: Sequence[Deployment], now: datetime) -> None:
    if not behind:
        return
    chosen = _canaries(certificate, now)
    times: dict[datetime, list[Deployment]] = defaultdict(list)
    for row in behind:
        has_turn = chosen is None or row.pk in chosen
        times[_offered_at(certificate, row, now, has_turn=has_turn)].append(row)
    reach(certificate, [row.device_id for row in times.pop(now, ())])
    for at, waiting in times.items():
        certificate.deployments.filter(pk__in=[row.pk for row in waiting]).update(wake_at=at)


def _offered_at(
    certificate: Certificate, row: Deployment, now: datetime, *, has_turn: bool
) -> datetime:
    """Return when the device gets the current version, or when to look again. Never before now."""
    latest = latest_at(row.wanted)
    if latest is None or latest <= now:
        return now
    if not has_turn:
        return min(latest, now + RECHECK)
    return min(latest, windows.opens_at(certificate.install_window, now))


def latest_at(version: CertificateVersion | None) -> datetime | None:
    """Return until when a device may be kept at this version. None is not at all."""
    if version is None or version.revoke_asked_at:
        return None
    return version.not_after - (version.not_after - version.not_before) / SAFE_PART


def _canaries(certificate: Certificate, now: datetime) -> set[int] | None:
    """Return the deployments that get the current version before the others.

    None is for all. The set is empty while the canary is being waited for, and after it failed.
    A canary that did not even fetch the version in time is replaced by another one.
    """
    current = certificate.current
    assert current, "there is a version to give"
    rows = _active(certificate)
    of_all = certificate.rollout == Certificate.Rollout.ALL
    if of_all or rows.filter(served_serial=current.serial).exists():
        return None
    tried = rows.filter(wanted=current)
    is_young = Q(wanted_at__gt=now - timedelta(seconds=settings.SERVE_WITHIN))
    failed = Q(failed_serial=current.serial)
    if tried.filter(failed | is_young | Q(fetched_serial=current.serial)).exists():
        return set()
    reports = Case(When(served_at=None, then=1), default=0)
    is_away = Case(When(device__last_seen_at__lt=now - RECHECK, then=1), default=0)
    others = rows.exclude(wanted=None).exclude(wanted=current)
    return set(others.order_by(reports, is_away, "pk").values_list("pk", flat=True)[:1])


def _look_after(certificate: Certificate, rows: Sequence[Deployment], now: datetime) -> None:
    """Raise a notice for the devices that had the current version for long and do not serve it."""
    current = certificate.current
    assert current, "they want it"
    late = []
    for row in rows:
        due = late_at(row.wanted_at or now)
        is_over = row.served_serial == current.serial or due <= now
        if due <= now and row.served_serial != current.serial:
            late.append(row)
        certificate.deployments.filter(pk=row.pk).update(wake_at=None if is_over else due)
    if late:
        notify.not_served_by(certificate, late)


def late_at(wanted_at: datetime) -> datetime:
    return wanted_at + timedelta(seconds=settings.SERVE_WITHIN)


def _active(certificate: Certificate) -> QuerySet[Deployment]:
    return certificate.deployments.filter(device__status=Device.Status.ACTIVE)
