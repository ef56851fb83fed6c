"""Ask for a revocation. A worker sends it to the CA."""

from accounts import audit
from certctrl import clock, dispatch
from certctrl.errors import Conflict, Invalid
from issuance import tasks
from issuance.models import Certificate, CertificateVersion

REASONS = {  # the reasons that a subscriber may give: RFC 5280, section 5.3.1
    "unspecified": 0,
    "keyCompromise": 1,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
}


def revoke(
    certificate: Certificate, reason: object = 0, actor: str = "", ip: str | None = None
) -> CertificateVersion:
    """Ask for the revocation of the current version, and return the version.

    A worker sends the revocation and retries it. Asking twice changes nothing. `reason` is a name
    or a number of REASONS. Raise Invalid for another reason, and Conflict when no version exists.
    """
    number = REASONS.get(reason) if isinstance(reason, str) else reason
    if isinstance(number, bool) or not isinstance(number, int) or number not in REASONS.values():
        known = ", ".join(f"{name} ({each})" for name, each in REASONS.items())
        raise Invalid(f"The reason is not known. Give one of {known}.", field="reason")
    version = certificate.current
    if not version:
        raise Conflict(f"{certificate.domain} was never issued, so there is nothing to revoke.")
    unasked = CertificateVersion.objects.filter(pk=version.pk, revoke_asked_at=None)
    now = clock.now()
    if unasked.update(revoke_asked_at=now, revoke_reason=number, wake_at=now, queued_at=now):
        who = actor or str(certificate.owner)
        audit.record(certificate.owner, who, "certificate.revoked", str(version), ip, reason=number)
        dispatch.nudge(tasks.revoke, version.pk)
    version.refresh_from_db()
    return version
