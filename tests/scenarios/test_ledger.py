"""The ledger of rate limits holds back what the CA would refuse, and nothing else."""

import random
from datetime import timedelta

import pytest

from issuance.models import Issuance, IssuanceEvent
from tests.scenarios.runner import Scenario, numbered

pytestmark = pytest.mark.django_db
AN_HOUR = 3600.0


@pytest.mark.parametrize("skew", [6, 60, -60])
def test_workers_whose_clocks_are_wrong(
    scenario: Scenario, settings, account, credential, skew: int
) -> None:
    """The workers' clocks differ from the clock process. Orders go out as the limits allow."""
    scenario.skew = skew
    scenario.limit(settings, account=[5, 10])
    names = scenario.due(account, credential, numbered(15))
    scenario.run_until_issued(names, 300)
    assert scenario.longest(names) <= 100 + 90
    assert not scenario.ca.limiter.refused


def test_another_certificate_waits_for_its_own_names(
    scenario: Scenario, settings, account, credential
) -> None:
    """A certificate waits for the limit of its exact names. Ten others order without a wait."""
    scenario.limit(settings, set=[1, 3600])
    same = scenario.issue(account, credential, ["www.same.com"])
    scenario.renew(same)
    scenario.run(scenario.scheduler.passed + 30)
    assert scenario.last(same[0]).state == Issuance.State.QUEUED
    since = scenario.scheduler.passed
    names = scenario.due(account, credential, numbered(10))
    scenario.run_until_issued(names, since + 300)
    waits = IssuanceEvent.objects.filter(
        issuance__certificate__domain__in=names, step="order", outcome=IssuanceEvent.Outcome.WAIT
    )
    assert not waits.exists()
    assert scenario.longest(names, since=since) <= 15


@pytest.fixture
def backlog(scenario: Scenario, settings, account, credential) -> list[str]:
    """A hundred and fifty names at a CA that takes ten orders, then one each two minutes.

    They are in the order of their expiry. They were asked for in another order.
    """
    scenario.sweep_every = 10
    scenario.limit(settings, account=[10, 120])
    names = numbered(150)
    expiries = {name: scenario.time + timedelta(days=10, hours=at) for at, name in enumerate(names)}
    for name in random.Random(1).sample(names, len(names)):
        scenario.due(account, credential, [name], expires_at=expiries[name])
    return names


@pytest.mark.slow
def test_a_backlog_stays_due(scenario: Scenario, backlog: list[str]) -> None:
    """Far more names are due than the CA takes. Only those with a token near have attempts."""
    scenario.run(AN_HOUR)
    signed, tokens_of_an_hour = len(scenario.ca.signed), 30
    assert signed >= 0.9 * 40
    assert not scenario.ca.limiter.refused
    assert not Issuance.objects.filter(state=Issuance.State.FAILED).exists()
    assert Issuance.objects.count() <= signed + tokens_of_an_hour + 10


@pytest.mark.slow
def test_a_backlog_goes_by_expiry(scenario: Scenario, backlog: list[str]) -> None:
    """Far more names are due than the CA takes. Those that expire soonest are issued first."""
    scenario.run(AN_HOUR)
    signed = sorted(scenario.ca.signed, key=backlog.index)
    assert len(signed) >= 0.9 * 40
    assert signed == backlog[: len(signed)]
