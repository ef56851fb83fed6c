"""Look at the zones of a request, before there is a certificate."""

from accounts.models import User
from issuance import preflight
from issuance.models import Certificate
from issuance.services.certificates import CertificateSpec


def look(owner: User, spec: CertificateSpec) -> list[preflight.Finding]:
    """Return the findings of a preflight for a certificate that does not exist yet."""
    certificate = Certificate(
        owner=owner,
        domain=spec.names[0],
        names=list(spec.names),
        account=spec.account,
        credential=spec.credential,
        key_type=spec.key_type,
        key_size=spec.key_size,
        **spec.settings,
    )
    return preflight.run(certificate)
