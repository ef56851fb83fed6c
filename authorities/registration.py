"""Register an account at its CA, in a turn of the account."""

import structlog

from authorities import catalog, clients, exchanges
from authorities.models import AcmeAccount
from certctrl import lanes
from certctrl.lanes import Lane
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble
from keystore import envelope
from keystore.models import Envelope

logger = structlog.get_logger()
Status = AcmeAccount.Status
EAB = Lane("eab:zerossl", _("the service of ZeroSSL for external account bindings"))


def register(account_id: int) -> None:
    """Register the account, or store why its CA refuses.

    Raise Wait while another worker has the turn. Raise Trouble when a retry may help.
    """
    accounts = AcmeAccount.objects.select_related("owner")
    with accounts.turn(account_id) as account:
        if account.url or account.retired_at:
            return account.give_back(None)
        try:
            _register(account)
        except Trouble as trouble:
            _store_trouble(account, trouble)
            if not trouble.permanent:
                raise
    _wake_waiting(account)
    return None


def _register(account: AcmeAccount) -> None:
    _fetch_eab(account)
    with (
        lanes.enter(catalog.lane_of_account(account), account.owner_id),
        exchanges.about(account, "register"),
    ):
        resource = clients.client_for(account).register()
    if resource.status != "valid":
        raise Trouble(
            "ca_account_deactivated",
            _(
                "The account %(name)s has the status %(status)s at the CA. Create a new account.",
                name=account.name,
                status=resource.status,
            ),
            permanent=True,
        )
    account.give_back(None, url=resource.url, status=Status.VALID, error_code="", error_what="")
    logger.info("account.registered", account=account.pk)


def _fetch_eab(account: AcmeAccount) -> None:
    """Fetch an external account binding when ZeroSSL can give one, by API key or e-mail address."""
    if account.eab_kid or not catalog.fetches_eab(account):
        return
    with lanes.enter(EAB, account.owner_id):
        kid, hmac_key = clients.fetch_eab(account)
    with account.fence():
        fetched_with = account.eab_id
        sealed = envelope.seal(account.owner, "eab", hmac_key.encode())
        account.write(eab_kid=kid, eab=sealed)
        if fetched_with:
            Envelope.objects.filter(pk=fetched_with).delete()  # the API key is not needed any more


def _store_trouble(account: AcmeAccount, trouble: Trouble) -> None:
    fields = {"error_code": trouble.code, "error_what": trouble.what}
    if trouble.permanent:
        account.give_back(None, status=Status.REFUSED, **fields)
    else:
        account.write(**fields)


def _wake_waiting(account: AcmeAccount) -> None:
    account.issuances.wake_queued()
