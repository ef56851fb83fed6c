import pytest

from accounts.models import User
from authorities.models import AcmeAccount
from dnsproviders.models import DnsCredential
from tests.fakes.world import World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.fixture
def owner(db: None) -> User:
    return User.objects.create_user("owner@example.com")


@pytest.fixture
def account(world: World, owner: User) -> AcmeAccount:
    return world.account(owner)


@pytest.fixture
def credential(world: World, owner: User) -> DnsCredential:
    return world.credential(owner)
