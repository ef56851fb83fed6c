"""Ask for a revocation. A worker sends it to the CA."""

from django.db import transaction

from accounts import audit
from certctrl import clock, dispatch
from certctrl.errors import Conflict, Invalid
from certctrl.sentences import sentence as _
from devices.models import Device
from issuance import tasks
from issuance.models import Certificate, CertificateVersion

SUPERSEDED = 4  # RFC 5280, section 5.3.1
REASONS = {  # the reasons that a subscriber may give: RFC 5280, section 5.3.1
    "unspecified": 0,
    "keyCompromise": 1,
    "affiliationChanged": 3,
    "superseded": SUPERSEDED,
    "cessationOfOperation": 5,
}


def revoke(
    certificate: Certificate, reason: object = 0, actor: str = "", ip: str | None = None
) -> CertificateVersion:
    """Ask for the revocation of the current version, and return the version.

    A worker sends the revocation and retries it. Asking twice changes nothing. `reason` is a name
    or a number of REASONS. Raise Invalid for another reason, and Conflict when no version exists.
    """
    number = number_of(reason)
    version = certificate.current
    if not version:
        raise Conflict(
            _(
                "%(domain)s was never issued, so there is nothing to revoke.",
                domain=certificate.domain,
            )
        )
    unasked = CertificateVersion.objects.filter(pk=version.pk, revoke_asked_at=None)
    now = clock.now()
    if unasked.update(revoke_asked_at=now, revoke_reason=number, wake_at=now, queued_at=now):
        who = actor or str(certificate.owner)
        audit.record(certificate.owner, who, "certificate.revoked", str(version), ip, reason=number)
        dispatch.nudge(tasks.revoke, version.pk)
    version.refresh_from_db()
    return version


def number_of(reason: object) -> int:
    """Return the number of a reason. Raise Invalid when a subscriber may not give it."""
    number = REASONS.get(reason) if isinstance(reason, str) else reason
    if isinstance(number, bool) or not isinstance(number, int) or number not in REASONS.values():
        known = ", ".join(f"{name} ({each})" for name, each in REASONS.items())
        raise Invalid(
            _("The reason is not known. Give one of %(known)s.", known=known), field="reason"
        )
    return number


@transaction.atomic
def revoke_replaced(certificate: Certificate) -> int:
    """Ask for the revocation of all versions before the current one, once that is served.

    It must be served by each device and each address that is probed. Without any of them, nobody
    knows, and nothing is revoked. Return the number of versions.
    """
    current = certificate.current
    if current is None or not is_served(certificate):
        return 0
    now = clock.now()
    valid = certificate.versions.filter(not_after__gt=now, revoke_asked_at=None, revoked_at=None)
    replaced = valid.exclude(pk=current.pk).filter(created_at__lte=current.created_at)
    for version in replaced:
        detail = {"reason": SUPERSEDED, "successor": current.serial}
        audit.note(certificate.owner, "certificate.revoked", str(version), **detail)
    return replaced.update(revoke_asked_at=now, revoke_reason=SUPERSEDED, wake_at=now)


def is_served(certificate: Certificate) -> bool:
    """Return whether all devices and probed addresses serve the current version."""
    current = certificate.current
    devices = certificate.deployments.filter(device__status=Device.Status.ACTIVE)
    served = devices.values_list("served_serial", flat=True)
    shown = certificate.probes.values_list("fingerprint", flat=True)
    if current is None or not (served or shown):
        return False
    return set(served) <= {current.serial} and set(shown) <= {current.fingerprint}
