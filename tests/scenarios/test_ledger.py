"""The ledger of rate limits holds back what the CA would refuse, and nothing else."""

import random
from datetime import timedelta

import pytest

from issuance.models import Certificate, Issuance, IssuanceEvent
from tests.scenarios.runner import Scenario, numbered

pytestmark = pytest.mark.django_db
AN_HOUR = 3600.0


@pytest.mark.parametrize(
    "skew", [6, *(pytest.param(skew, marks=pytest.mark.slow) for skew in (60, -60))]
)
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
    """Thirty names at a CA that takes two orders, then one each ten minutes.

    They are in the order of their expiry. They were asked for in another order.
    """
    scenario.sweep_every = 10
    scenario.limit(settings, account=[2, 600])
    names = numbered(30)
    expiries = {name: scenario.time + timedelta(days=10, hours=at) for at, name in enumerate(names)}
    for name in random.Random(1).sample(names, len(names)):
        scenario.due(account, credential, [name], expires_at=expiries[name])
    return names


def test_a_backlog_stays_due(scenario: Scenario, backlog: list[str]) -> None:
    """More names are due than the CA takes. Only those with a token near have attempts."""
    scenario.run(900)
    signed = len(scenario.ca.signed)
    assert signed == 3
    assert Issuance.objects.count() <= signed + 6
    assert not Issuance.objects.filter(state=Issuance.State.FAILED).exists()
    assert Certificate.objects.filter(lacks__isnull=False).count() >= 30 - signed - 6


@pytest.mark.slow
def test_a_backlog_goes_by_expiry(scenario: Scenario, backlog: list[str]) -> None:
    """More names are due than the CA takes. Those that expire soonest are issued first."""
    scenario.run(2 * AN_HOUR)
    signed = sorted(scenario.ca.signed, key=backlog.index)
    assert len(signed) >= 0.9 * 14
    assert signed == backlog[: len(signed)]
    assert not scenario.ca.limiter.refused


@pytest.mark.slow
def test_a_backlog_of_days_makes_no_dead_attempt(
    scenario: Scenario, settings, account, credential
) -> None:
    """Two hundred names of one domain are due, and others of another. Nothing fails in a day."""
    scenario.sweep_every = 60
    scenario.limit(settings, domain=[5, 3600])
    names = scenario.due(account, credential, numbered(100, "busy.com"))
    free = scenario.due(account, credential, numbered(5, "free.com"))
    scenario.run(24 * AN_HOUR)
    signed = sum(name in scenario.ca.signed for name in names)
    assert signed >= 0.9 * 29
    assert scenario.longest(free) <= 150
    assert Issuance.objects.count() <= signed + len(free) + 1
    assert not Issuance.objects.filter(state=Issuance.State.FAILED).exists()


@pytest.mark.slow
def test_owners_of_a_backlog_are_served_in_rotation(
    scenario: Scenario, settings, account, credential
) -> None:
    """Two owners have names of one domain. The one with few names waits for few tokens."""
    scenario.sweep_every = 10
    scenario.limit(settings, domain=[2, 1200])
    scenario.due(account, credential, numbered(50, "shared.com"))
    other = scenario.someone("other")
    few = [f"few{number}.shared.com" for number in range(3)]
    scenario.due(scenario.account(other), scenario.credential(other), few)
    scenario.run_until_issued(few, 4 * AN_HOUR)
    assert scenario.longest(few) <= 2.5 * AN_HOUR


@pytest.mark.slow
def test_orders_under_a_limit_go_out_at_the_rate_that_it_allows(
    scenario: Scenario, settings, account, credential
) -> None:
    """People order thirty names of one domain. No token is lost after the first five."""
    scenario.limit(settings, domain=[5, 2])
    names = numbered(30, "busy.com")
    for name in names:
        scenario.create(account, credential, name)
    scenario.run_until_issued(names, 300)
    accepted = scenario.ca.limiter.accepted
    assert len(accepted) == 30
    assert accepted[-1] - accepted[0] <= 25 * 2 / 0.9
    assert not scenario.ca.limiter.refused
