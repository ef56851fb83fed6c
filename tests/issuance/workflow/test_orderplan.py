"""The order step asks once for each thing that it needs, and hands the answer down."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from authorities import clients
from issuance import ratelimits, services, workflow
from issuance.models import Certificate, Issuance, RenewalInfo
from issuance.ratelimits import charges
from issuance.renewal import ari
from tests.fakes.world import World

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ari_offered")]

ORDER = workflow.STEPS[0]
IN_ONE_CLAIM = connection.vendor == "postgresql"  # one statement updates and reads the row


@pytest.fixture
def certificate(world, account, credential) -> Certificate:
    certificate, _ = world.create(account, credential, "a.example.com")
    world.deliver()
    certificate.refresh_from_db()
    return certificate


def open_window(world: World, certificate: Certificate) -> None:
    RenewalInfo.objects.filter(version=certificate.current_id).update(
        window_start=world.time - timedelta(days=1), window_end=world.time + timedelta(days=1)
    )


def statements_of(attempt: Issuance) -> int:
    """Return how many SQL statements the order step takes until it is done."""
    with CaptureQueriesContext(connection) as queries:
        assert workflow.take(ORDER, attempt.pk)
    return sum(not each["sql"].startswith(("SAVEPOINT", "RELEASE")) for each in queries)


@pytest.fixture
def asked(monkeypatch) -> dict[str, int]:
    """Count the questions to the limits, the renewal and the clients."""
    counts: dict[str, int] = {}

    def counted(module: Any, name: str) -> None:
        real = getattr(module, name)

        def ask(*args: Any, **kwargs: Any) -> Any:
            counts[name] = counts.get(name, 0) + 1
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, ask)

    counted(clients, "client_for")
    counted(ari, "replaces_of")
    counted(ari, "is_in_window")
    counted(ratelimits, "charges_of")
    counted(charges, "of_order")
    counted(charges, "find")
    return counts


def test_a_first_order_asks_each_question_once(world, account, credential, asked):
    _, attempt = world.create(account, credential, "a.example.com")
    assert workflow.take(ORDER, attempt.pk)
    assert asked == {"client_for": 1, "replaces_of": 1, "charges_of": 1, "of_order": 1, "find": 1}


def test_a_renewal_asks_each_question_once(world, certificate, asked):
    attempt = services.issue(certificate)
    assert workflow.take(ORDER, attempt.pk)
    assert set(asked.values()) == {1}
    assert asked.keys() >= {"replaces_of", "is_in_window", "charges_of"}


def test_a_renewal_in_its_window_asks_only_for_a_pause(world, certificate, asked):
    open_window(world, certificate)
    attempt = services.issue(certificate)
    assert workflow.take(ORDER, attempt.pk)
    assert "of_order" not in asked
    assert set(asked.values()) == {1}


def test_an_order_without_limits_takes_13_statements(world, account, credential):
    _, attempt = world.create(account, credential, "a.example.com")
    assert statements_of(attempt) == 13 - IN_ONE_CLAIM


def test_a_renewal_takes_two_statements_more(world, certificate):
    """It reads the attempt before, and which names that one wrote. It takes over no order."""
    assert statements_of(services.issue(certificate)) == 16 - IN_ONE_CLAIM


def test_a_renewal_in_its_window_takes_no_more(world, certificate):
    open_window(world, certificate)
    assert statements_of(services.issue(certificate)) == 16 - IN_ONE_CLAIM
