"""Revocation is a row's wish with its own turns: it survives a CA that is down."""

from authorities import clients, exchanges
from certctrl import clock
from certctrl.turns import A_DAY, Trouble
from issuance.models import CertificateVersion


def revoke(version_id: int) -> None:
    """Revoke at the CA (RFC 8555, section 7.6). Raises Wait while another has it in hand, Trouble to retry."""
    versions = CertificateVersion.objects.select_related("account")
    with versions.turn(version_id) as version:
        if version.revoked_at or not version.revoke_asked_at:
            return version.release(None)
        if version.not_after <= clock.now():
            what = "It expired before the CA revoked it; there is nothing left to revoke."
            return version.release(None, revoke_asked_at=None, revoke_error=what)
        try:
            with exchanges.about(version.account, "revoke", version.issuance_id):
                clients.client_for(version.account).revoke(
                    version.chain_pem, version.revoke_reason or 0
                )
        except Trouble as trouble:
            version.write(revoke_error=trouble.what)
            if trouble.permanent:
                trouble.retry_after = max(trouble.retry_after or 0, A_DAY.total_seconds())
            raise
        version.release(None, revoked_at=clock.now(), revoke_error="")
    return None
