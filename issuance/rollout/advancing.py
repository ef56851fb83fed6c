"""Give the next version to devices: all at once, or after one of them has proved it.

Each deployment wants one version. Its device may fetch only that. `wake_at` is when the deployment
is looked at again. The caller of each function has locked the certificate.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Case, Exists, OuterRef, Q, QuerySet, When

from certctrl import clock
from devices import signals
from devices.models import Device
from issuance import notify, wraps
from issuance.models import Certificate, CertificateVersion, Deployment, RenewalInfo
from issuance.rollout import windows
from keystore.models import Envelope, KeyWrap

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
    wanted = {"wanted": current, "wanted_serial": current.serial, "wanted_at": now}
    if new.update(**wanted, wake_at=late_at(now)):
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
    wraps_of = KeyWrap.objects.filter(
        envelope=OuterRef("wanted__key"), recipient_key=OuterRef("device__key")
    )
    found = due.annotate(has_wrap=Exists(wraps_of)).select_related("wanted__renewal_info", "device")
    rows = list(found.order_by("wake_at", "pk")[:BATCH])
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
        at = _offered_at(certificate, row, now, has_turn=has_turn)
        times[at if _opens(certificate, row) else now].append(row)
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


def _opens(certificate: Certificate, row: Deployment) -> bool:
    """Return whether the device, or the server for it, can open the version that it wants.

    It cannot after the device got another key.
    """
    is_opened_here = certificate.key_policy == Envelope.Policy.MASTER_ONLY
    return is_opened_here or bool(getattr(row, "has_wrap"))  # noqa: B009


def latest_at(version: CertificateVersion | None) -> datetime | None:
    """Return until when a device may be kept at this version. None is not at all.

    A renewal window that ends in the first half of its life says that the CA wants it replaced
    early, for example because it is going to revoke it (RFC 9773, section 4.2).
    """
    if version is None or version.revoke_asked_at:
        return None
    life = version.not_after - version.not_before
    info: RenewalInfo | None = getattr(version, "renewal_info", None)
    if info and info.window_end and info.window_end < version.not_before + life / 2:
        return min(info.window_end, version.not_after - life / SAFE_PART)
    return version.not_after - life / SAFE_PART


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
    times: dict[datetime | None, list[int]] = defaultdict(list)
    for row in rows:
        is_served = row.served_serial == current.serial
        due = late_at(row.wanted_at or now)
        times[None if is_served or due <= now else due].append(row.pk)
        if due <= now and not is_served:
            late.append(row)
    for at, ids in times.items():
        certificate.deployments.filter(pk__in=ids).update(wake_at=at)
    if late:
        notify.not_served_by(certificate, late)


def late_at(wanted_at: datetime) -> datetime:
    return wanted_at + timedelta(seconds=settings.SERVE_WITHIN)


def _active(certificate: Certificate) -> QuerySet[Deployment]:
    return certificate.deployments.filter(device__status=Device.Status.ACTIVE)
