"""Return the client for an account. Clients are kept for each thread."""

import threading
from collections import OrderedDict
from typing import Any

from authorities import zerossl
from authorities.acme import AcmeCA, ExternalAccount, Reach
from authorities.base import CA
from authorities.catalog import directory_of, info
from authorities.models import AcmeAccount
from authorities.privateca import PrivateAuthority
from certctrl import outgoing
from keystore import envelope

KEPT_CLIENTS = 32  # for each thread


def fetch_eab(account: AcmeAccount) -> tuple[str, str]:
    """Fetch a new external account binding. Return its kid and HMAC key.

    While `eab_kid` is empty, `eab` holds an API key, which is used. Without an API key, the
    account's e-mail address is used. Raise Trouble or Refused like `zerossl.fetch_eab`.
    """
    api_key = envelope.unseal(account.eab).decode() if account.eab and not account.eab_kid else ""
    return zerossl.fetch_eab(email=account.email, api_key=api_key)


def client_for(account: AcmeAccount) -> CA:
    """Return the client for the account.

    It is kept for each thread, so that not every step must unseal the account key.
    """
    if account.private_ca is not None:
        return PrivateAuthority(account.private_ca)
    clients = _clients()
    wanted = (
        account.pk,
        account.key_id,
        account.eab_id,
        account.eab_kid,
        directory_of(account),
        account.email,
    )
    client = clients.pop(wanted, None) or _open(account)
    client.url = account.url
    clients[wanted] = client  # the oldest unused client is dropped first
    while len(clients) > KEPT_CLIENTS:
        clients.popitem(last=False)
    return client


def _open(account: AcmeAccount) -> AcmeCA:
    return AcmeCA(
        directory_url=directory_of(account),
        key=envelope.unseal(account.key),
        url=account.url,
        email=account.email,
        external=_external(account),
        reach=_reach(account),
    )


def _reach(account: AcmeAccount) -> Reach:
    ca = info(account.ca_provider)
    # Known: in the table of `catalog`, or in ACME_CAS.
    is_known = directory_of(account) == outgoing.canonical_url(ca.directory_url)
    return Reach(ca.hosts, not is_known and not account.owner.is_staff)


def _external(account: AcmeAccount) -> ExternalAccount | None:
    if account.eab is None or not account.eab_kid:
        return None
    return ExternalAccount(account.eab_kid, envelope.unseal(account.eab).decode())


_kept = threading.local()


def _clients() -> "OrderedDict[tuple[Any, ...], AcmeCA]":
    if not hasattr(_kept, "clients"):
        _kept.clients = OrderedDict()
    clients: OrderedDict[tuple[Any, ...], AcmeCA] = _kept.clients
    return clients
