"""Alice has an account and a credential. The fake CA issues when a test delivers messages."""

from collections.abc import Callable
from typing import Any

import pytest

from accounts.models import User
from authorities.models import AcmeAccount
from dnsproviders.models import DnsCredential
from issuance.models import Certificate
from tests.fakes.world import World
from tests.issuance.api.calling import Caller


@pytest.fixture
def owner(alice: User) -> User:
    return alice


@pytest.fixture
def api(client_of: Callable[..., Any], alice: User) -> Caller:
    return Caller(client_of(alice))


@pytest.fixture
def bobs(client_of: Callable[..., Any], bob: User) -> Caller:
    return Caller(client_of(bob))


@pytest.fixture
def keyed(key_client: Callable[..., Any], alice: User) -> Callable[..., Caller]:
    """`keyed("certificates:*[read]")` returns a client with such an API key of alice."""
    return lambda *scopes: Caller(key_client(alice, *scopes))


@pytest.fixture
def guide(account: AcmeAccount, credential: DnsCredential) -> Callable[..., dict[str, Any]]:
    """Build the guide's create request: `guide(domain="example.org")`. None omits a member."""

    def build(**changes: Any) -> dict[str, Any]:
        body = {
            "domain": "example.com",
            "acme_account_id": account.pk,
            "dns_provider_id": credential.pk,
        } | changes
        return {name: value for name, value in body.items() if value is not None}

    return build


@pytest.fixture
def reference(account: AcmeAccount, credential: DnsCredential) -> Callable[..., dict[str, Any]]:
    """Build the create request of the reference."""

    def build(**changes: Any) -> dict[str, Any]:
        body = {
            "action": "create",
            "domain_name": "example.com",
            "acct_id": account.pk,
            "dns_provider_id": credential.pk,
        }
        return {name: value for name, value in (body | changes).items() if value is not None}

    return build


@pytest.fixture
def issued(world: World, api: Caller, guide: Callable[..., dict[str, Any]]) -> Certificate:
    """A certificate that was issued through the API, and may be exported."""
    body = guide(sans=["*.example.com"], server_decrypt_export=True)
    pk = api.post("certificates", body).data_member["id"]
    world.deliver()
    return Certificate.objects.get(pk=pk)
