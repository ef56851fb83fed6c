"""The checks at the end of a run, after the faults have stopped and the sweeps have run."""

from typing import TYPE_CHECKING

from django.db.models import Count, F

from authorities.models import AcmeAccount
from devices.models import Device
from dnsproviders.models import TxtRecord
from issuance.models import Certificate, CertificateVersion, Deployment, Issuance, RenewalInfo
from keystore.models import KeyWrap

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

State = Issuance.State


def unfinished() -> list[Certificate]:
    """Return kept certificates whose last attempt was neither issued nor canceled."""
    alive = Certificate.objects.filter(retired_at=None)
    return [each for each in alive if not _is_finished(each)]


def _is_finished(certificate: Certificate) -> bool:
    if certificate.lacks_device:
        return True
    last = certificate.issuances.order_by("-pk").first()
    return bool(last and last.state in (State.CANCELED, State.ISSUED) and not last.proves)


def what_is_left() -> str:
    opens = [f"attempt {each.pk} {each.state} {each.waits_for}" for each in Issuance.objects.open()]
    in_zone = [str(each) for each in TxtRecord.objects.in_the_zone()]
    return (
        "; ".join([*opens, *in_zone, *(f"certificate {each.pk}" for each in unfinished())])
        or "nothing"
    )


def violations(simulation: "Simulation") -> list[str]:
    """Return everything that is wrong at the end, in sentences."""
    return [
        *(f"attempt {each.pk} has not ended: {each.state}" for each in Issuance.objects.open()),
        *(f"certificate {each.pk} is not issued" for each in unfinished()),
        *_versions(),
        *(f"left in the zone: {name} {value}" for name, value in simulation.zone.txt()),
        *(f"{each} is not cleaned up" for each in TxtRecord.objects.in_the_zone()),
        *_awake(),
        *_windows(),
        *_revocations(simulation),
        *_orders(simulation),
        *_wraps(),
        *_wanted(),
    ]


def _awake() -> list[str]:
    tables = (Issuance, TxtRecord, AcmeAccount, CertificateVersion)
    rows = (each for table in tables for each in table.objects.filter(wake_at__isnull=False))
    return [f"{each!r} still wakes at {each.wake_at}" for each in rows]


def _versions() -> list[str]:
    issued = set(
        Issuance.objects.filter(state=State.ISSUED, proves=False).values_list("pk", flat=True)
    )
    stored = list(CertificateVersion.objects.values_list("issuance", flat=True))
    wrong = (
        []
        if sorted(stored) == sorted(issued)
        else [f"issued attempts {issued}, versions of {stored}"]
    )
    for certificate in Certificate.objects.exclude(current=None):
        newest = certificate.versions.order_by("-issuance").first()
        if newest != certificate.current:
            wrong.append(f"certificate {certificate.pk} has an older version than its newest")
    return wrong


def _windows() -> list[str]:
    """Each certificate's window is polled, and no worker holds one for ever."""
    held = [f"{each!r} is still held" for each in RenewalInfo.objects.exclude(holder="")]
    alive = Certificate.objects.filter(retired_at=None, current__isnull=False)
    unasked = alive.exclude(current__renewal_info__wake_at__isnull=False)
    return held + [f"nobody asks when certificate {each.pk} is to be renewed" for each in unasked]


def _revocations(simulation: "Simulation") -> list[str]:
    asked = CertificateVersion.objects.filter(revoke_asked_at__isnull=False)
    not_done = asked.filter(revoked_at=None) | asked.exclude(chain_pem__in=simulation.ca.revoked)
    return [f"{each} is not revoked" for each in not_done]


def _wraps() -> list[str]:
    """The key of a version in use opens for the recipients of its policy, and for nobody else.

    The key of an attempt that failed may be wrapped for assigned devices until it is pruned.
    """
    wrong = []
    for certificate in Certificate.objects.filter(retired_at=None).exclude(current=None):
        devices = set(certificate.active_devices().values_list("key", flat=True))
        wanted: set[int | None] = set() if certificate.key_policy == "MASTER_ONLY" else {*devices}
        if certificate.key_policy != "DEVICE_REQUIRED":
            wanted.add(None)
        openers = set(certificate.current.key.wraps.values_list("recipient_key", flat=True))
        if openers != wanted:
            wrong.append(f"certificate {certificate.pk} opens for {openers}, not for {wanted}")
    of_devices = KeyWrap.objects.filter(recipient_key__isnull=False)
    for wrap in of_devices.select_related("envelope"):
        versions = CertificateVersion.objects.filter(key=wrap.envelope_id)
        attempts = Issuance.objects.filter(key=wrap.envelope_id)
        owner = attempts.first() or versions.first()
        keys = owner and owner.certificate.active_devices().values_list("key", flat=True)
        if not keys or wrap.recipient_key_id not in keys:
            wrong.append(f"a wrap is left for a device that is not assigned: {wrap}")
        if versions.filter(certificate__current__isnull=False).exclude(
            pk=F("certificate__current")
        ):
            wrong.append(f"a replaced version is wrapped for a device: {wrap}")
    return wrong


def _wanted() -> list[str]:
    """Each device that is assigned and active may fetch the version in use."""
    rows = Deployment.objects.filter(
        device__status=Device.Status.ACTIVE,
        certificate__retired_at=None,
        certificate__current__isnull=False,
    )
    behind = rows.exclude(wanted=F("certificate__current"))
    return [f"{each} wants version {each.wanted_id}, and no newer one" for each in behind]


def _orders(simulation: "Simulation") -> list[str]:
    """An attempt orders once, and again only if a fault hid the response or sent it back."""
    attempts = Issuance.objects.count()
    anew = sum(Issuance.objects.values_list("orders", flat=True))
    unclear = simulation.outside.struck["ca.new_order"] + simulation.between_statements
    made = len(simulation.ca.orders)
    most = attempts + anew + unclear
    return (
        [f"{made} orders at the CA for {attempts} attempts, {most} at most"] if made > most else []
    )


def counts(simulation: "Simulation") -> dict[str, int]:
    """Return the figures of the run."""
    states = Issuance.objects.values_list("state").annotate(Count("pk"))
    return {**dict(states), "orders": len(simulation.ca.orders)}
