"""Revocation at the CA.

The version's row keeps the request and has its own turns. So the request survives while the CA is
down.
"""

from authorities import catalog, clients, exchanges
from certctrl import clock, lanes
from certctrl.sentences import sentence as _
from certctrl.turns import A_DAY, Trouble
from issuance.models import CertificateVersion


def revoke(version_id: int) -> None:
    """Revoke the version at its CA when that was asked for (RFC 8555, section 7.6).

    Raise Wait while another worker holds the row, and Trouble when it is retried. A permanent
    Trouble is retried after a day.
    """
    versions = CertificateVersion.objects.select_related("account")
    with versions.turn(version_id) as version:
        if version.revoked_at or not version.revoke_asked_at:
            return version.give_back(None)
        if version.not_after <= clock.now():
            what = _("It expired before the CA revoked it; there is nothing left to revoke.")
            return version.give_back(None, revoke_asked_at=None, revoke_error=what)
        account = version.account
        try:
            with (
                lanes.enter(catalog.lane_of_account(account), account.owner_id),
                exchanges.about(account, "revoke", version.issuance_id),
            ):
                clients.client_for(account).revoke(version.chain_pem, version.revoke_reason or 0)
        except Trouble as trouble:
            version.write(revoke_error=trouble.what)
            if trouble.permanent:
                trouble.retry_after = max(trouble.retry_after or 0, A_DAY.total_seconds())
            raise
        version.give_back(None, revoked_at=clock.now(), revoke_error="")
    return None
