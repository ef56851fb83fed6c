"""The client for an account, kept for each thread so that its key is not unsealed at every step."""

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
    """(kid, HMAC key) of a fresh external account binding: by the API key that is sealed in `eab` as long as there is
    no `eab_kid`, else by the account's e-mail address."""
    api_key = envelope.unseal(account.eab).decode() if account.eab and not account.eab_kid else ""
    return zerossl.fetch_eab(email=account.email, api_key=api_key)


def client_for(account: AcmeAccount) -> CA:
    """Who answers for the account. Kept per thread, so that its key is not unsealed for every step."""
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
    clients[wanted] = client  # the last used one is the last to go
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
    is_known = directory_of(account) == outgoing.canonical_url(
        ca.directory_url
    )  # by the table or by ACME_CAS
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
