"""Look at the zones of a request, before there is a certificate."""

from accounts.models import User
from issuance import preflight
from issuance.services.certificates import CertificateSpec, unsaved


def look(owner: User, spec: CertificateSpec) -> list[preflight.Finding]:
    """Return the findings of a preflight for a certificate that does not exist yet."""
    return preflight.run(unsaved(owner, spec))
