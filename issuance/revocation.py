"""Revocation is a row's wish with its own turns: it survives a CA that is down."""

from certctrl import clock
from certctrl.turns import Trouble
from issuance import ca
from issuance.models import CertificateVersion


def revoke(version_id: int) -> None:
    """Revoke at the CA (RFC 8555, section 7.6). Raises Wait while another has it in hand, Trouble to retry."""
    versions = CertificateVersion.objects.select_related("account")
    with versions.turn(version_id) as version:
        if version.revoked_at or not version.revoke_asked_at:
            return version.release(None)
        try:
            ca.client_for(version.account).revoke(version.chain_pem, version.revoke_reason or 0)
        except Trouble as trouble:
            version.write(revoke_error=trouble.what)
            raise
        version.release(None, revoked_at=clock.now(), revoke_error="")
    return None
