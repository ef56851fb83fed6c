"""Alice has a visitor, an account, a credential, and certificates in several conditions."""

from collections.abc import Callable

import pytest
from django.test import Client

from accounts.models import User
from authorities.models import AcmeAccount
from dnsproviders.models import DnsCredential
from issuance.models import Certificate
from tests import everything
from tests.devices.agent import Agent
from tests.fakes.mailbox import Mailbox
from tests.fakes.world import World
from tests.issuance.failing import issued
from tests.signin.conftest import codes_of


@pytest.fixture
def owner(alice: User) -> User:
    return alice


@pytest.fixture
def visitor(alice: User) -> Client:
    client = Client()
    client.force_login(alice)
    return client


@pytest.fixture
def bobs_visitor(bob: User) -> Client:
    client = Client()
    client.force_login(bob)
    return client


@pytest.fixture
def agent(db: None) -> Agent:
    return Agent()


@pytest.fixture
def certificate(world: World, account: AcmeAccount, credential: DnsCredential) -> Certificate:
    """A certificate that is issued."""
    return issued(world, account, credential, "www.example.com", "example.com")


@pytest.fixture
def sent_code(mailbox: Mailbox) -> Callable[[], str]:
    """Return a function that sends the only mail that is due, and returns its code."""

    def read() -> str:
        (code,) = codes_of(mailbox)
        return code

    return read


@pytest.fixture
def secrets(world: World, alice: User) -> list[str]:
    """The secrets of alice, who has a row in every table."""
    return everything.fill(world, everything.waiting(world, alice))
