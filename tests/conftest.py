"""Fixtures of all tests. alice owns the tested rows. bob is a stranger who owns similar rows."""

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.cache import cache
from django.db import connection
from django.test import TransactionTestCase
from rest_framework.test import APIClient

from accounts.models import User
from authorities.models import AcmeAccount
from certctrl import board, lanes
from certctrl.environment import Environment
from certctrl.lanes import Lane, Standing
from dnsproviders.models import DnsCredential
from issuance import preflight
from tests import factories
from tests.emptying import empty_database
from tests.fakes.mailbox import Mailbox
from tests.fakes.world import World

gc.disable()  # while the tests are collected


class JSONClient(APIClient):
    """A client that sends and reads JSON.

    A response has `body` (the decoded JSON), `data_member` (its `data`) and `error` (its `error`).
    """

    default_format = "json"

    def request(self, **kwargs: Any) -> Any:
        response = super().request(**kwargs)
        is_json = response.headers.get("Content-Type", "").startswith("application/json")
        response.body = response.json() if is_json and response.content else None
        response.data_member = (response.body or {}).get("data")
        response.error = (response.body or {}).get("error")
        return response


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m postgres`, import only the files that have the mark. Importing all takes long."""
    if not config.option.markexpr.startswith("postgres"):
        return None
    if not collection_path.match("test_*.py") or "mark.postgres" in collection_path.read_text():
        return None
    return True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the end-to-end tests first, and deselect the tests for PostgreSQL on other databases.

    End-to-end tests take long, so that at the end one worker would wait for another.
    The second run of `make test`, and of `make test-all`, is on PostgreSQL and includes the others.
    """
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
    if connection.vendor == "postgresql":
        return
    elsewhere = [item for item in items if item.get_closest_marker("postgres_only")]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [item for item in items if item not in elsewhere]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Let `-m` select no test: `make test` with ARGS may need only one of its two runs."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and session.config.option.markexpr:
        session.exitstatus = pytest.ExitCode.OK


def pytest_collection_finish() -> None:
    """Begin to collect garbage. Until now it would have read each new test again and again."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _empty_database() -> Iterator[None]:
    """Empty the database after each test that has committed, without Django's `flush`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", lambda case: empty_database())
        yield


@pytest.fixture(autouse=True)
def _empty_cache() -> Iterator[None]:
    """Clear the cache, so that the throttles of one test have no effect on the next."""
    cache.clear()
    lanes.forget()
    preflight.forget()
    yield
    cache.clear()


@pytest.fixture(autouse=True)
def _settings_that_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the settings that a test reads, because a backup holds those that were given."""
    monkeypatch.setattr(Environment, "given", dict(Environment.given))


@pytest.fixture
def alice(db: None) -> User:
    return factories.UserFactory(email="alice@example.org", name="alice")


@pytest.fixture
def bob(db: None) -> User:
    return factories.UserFactory(email="bob@example.net", name="bob")


@pytest.fixture
def client_of() -> Callable[..., JSONClient]:
    """Return a function that makes clients.

    - `client_of(user)` is logged in
    - `client_of()` is not logged in
    - `client_of(token="ak_...")` sends an API key
    """

    def build(user: User | None = None, token: str = "") -> JSONClient:
        client = JSONClient(raise_request_exception=False)
        if user:
            client.force_login(user)
        if token:
            client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
        return client

    return build


@pytest.fixture
def key_client(client_of: Callable[..., JSONClient]) -> Callable[..., JSONClient]:
    """Return a function that makes clients with a new API key.

    Example: `key_client(user, "certificates:*[read]")`.
    """
    return lambda owner, *scopes, **fields: client_of(
        token=factories.api_key(owner, *scopes, **fields)
    )


@pytest.fixture(scope="session")
def schema(django_db_setup: None, django_db_blocker: Any) -> Any:
    """The OpenAPI schema as the server sends it. To make it takes long."""
    with django_db_blocker.unblock():
        response = JSONClient().get("/apiv1/schema")
    assert response.status_code == 200
    return yaml.load(response.content, yaml.CSafeLoader)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.fixture
def fill_lane(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Lane], ExitStack]]:
    """Return a function that fills a lane with calls. Close what it returns to end them."""
    monkeypatch.setattr(board, "board", board.Board(8))
    with ExitStack() as all_calls:

        def build(lane: Lane) -> ExitStack:
            lanes.note(lane.key, Standing.TROUBLE)
            calls = all_calls.enter_context(ExitStack())
            for _ in range(lanes.IN_TROUBLE):
                token = board.place.set(None)  # another thread has no place yet
                calls.enter_context(lanes.enter(lane, owner=0))
                board.place.reset(token)
            return calls

        yield build


@pytest.fixture
def ari_offered(world: World) -> None:
    """Let the CA offer renewal windows (RFC 9773)."""
    world.ca.offers_renewal_info = True


@pytest.fixture
def owner(db: None) -> User:
    return User.objects.create_user("owner@example.com")


@pytest.fixture
def account(world: World, owner: User) -> AcmeAccount:
    return world.account(owner)


@pytest.fixture
def credential(world: World, owner: User) -> DnsCredential:
    return world.credential(owner)


@pytest.fixture
def mailbox(settings: Any) -> Iterator[Mailbox]:
    """A mail server that gets all mails of the test."""
    with Mailbox() as mailbox:
        settings.EMAIL_BACKEND = settings.SMTP_BACKEND
        settings.EMAIL_HOST = "127.0.0.1"
        settings.EMAIL_PORT = mailbox.port
        settings.NOTICE_FROM = "certctrl <notices@example.com>"
        settings.MAIL_IS_SET_UP = True
        yield mailbox
