"""A DNS API or a resolver that does not answer delays only those that need it."""

import pytest

from tests.scenarios.outside import NEVER, RESOLVER, Manner, slow
from tests.scenarios.runner import Scenario, numbered

pytestmark = pytest.mark.django_db
HALF_AN_HOUR = 1800.0


def crowd(scenario: Scenario, account, dead, healthy, count: int) -> tuple[list[str], list[str]]:
    """Return the names that depend on a sick API, which come first, and 75 of a healthy one."""
    sick = scenario.due(account, dead, [f"www.sick{number}.com" for number in range(count)])
    return sick, scenario.due(account, healthy, numbered(75))


@pytest.fixture
def sick_api(scenario: Scenario, owner):
    return scenario.credential(owner, name="sick")


def test_one_while_a_dns_api_is_dead(scenario: Scenario, account, sick_api, credential) -> None:
    """A DNS API is dead, with 12 attempts on it. One on another API notices nothing."""
    scenario.behave(NEVER, f"api {sick_api.pk}")
    scenario.due(account, sick_api, [f"www.sick{number}.com" for number in range(12)])
    scenario.run(5)
    healthy = scenario.due(account, credential, numbered(1))
    scenario.run_until_issued(healthy, HALF_AN_HOUR)
    assert scenario.longest(healthy, since=5) <= 20


@pytest.mark.slow
@pytest.mark.parametrize("manner", [NEVER, slow(19)], ids=["never answers", "answers after 19 s"])
def test_others_while_a_dns_api_is_sick(
    scenario: Scenario, account, sick_api, credential, manner: Manner
) -> None:
    """A DNS API is dead or slow, with 60 attempts on it. 75 on another API notice nothing."""
    scenario.behave(manner, f"api {sick_api.pk}")
    _, healthy = crowd(scenario, account, sick_api, credential, 60)
    scenario.run_until_issued(healthy, HALF_AN_HOUR)
    assert scenario.median(healthy) <= 10
    assert scenario.longest(healthy) <= 20


@pytest.mark.slow
def test_others_while_a_crowd_waits_for_an_api(
    scenario: Scenario, settings, account, sick_api, credential
) -> None:
    """A DNS API is dead, with 300 attempts on it. 75 on another API notice nothing."""
    scenario.limit(settings, account=[3000, 3.6])
    scenario.behave(NEVER, f"api {sick_api.pk}")
    _, healthy = crowd(scenario, account, sick_api, credential, 300)
    scenario.run_until_issued(healthy, HALF_AN_HOUR)
    assert scenario.longest(healthy) <= 40


@pytest.mark.slow
def test_the_dns_api_returns(scenario: Scenario, account, credential) -> None:
    """A DNS API is dead for five minutes. All 40 names are issued within ten minutes after."""
    scenario.behave(NEVER, f"api {credential.pk}", end=300)
    names = scenario.due(account, credential, numbered(40))
    scenario.run_until_issued(names, 5 * HALF_AN_HOUR)
    assert scenario.longest(names, since=300) <= 600


@pytest.mark.slow
def test_the_resolver_returns(scenario: Scenario, account, credential) -> None:
    """No resolver answers for five minutes. All 40 names are issued within ten minutes after."""
    scenario.behave(NEVER, RESOLVER, end=300)
    names = scenario.due(account, credential, numbered(40))
    scenario.run_until_issued(names, 5 * HALF_AN_HOUR)
    assert scenario.longest(names, since=300) <= 600


@pytest.mark.slow
def test_orders_past_the_dns_while_the_resolver_is_dead(
    scenario: Scenario, account, credential
) -> None:
    """The resolver dies while the CA validates 10 names. They need it no more, and are issued.

    Sixty new names wait for the resolver at the same time.
    """
    slow_ca = scenario.another_ca("other")
    other = scenario.account(account.owner, directory_url="https://other.test/dir")
    slow_ca.validation_reads = 10
    validating = scenario.due(other, credential, numbered(10, "example.net"))
    scenario.run(8)
    scenario.behave(NEVER, RESOLVER, begin=8)
    scenario.due(account, credential, numbered(60))
    assert not slow_ca.signed
    scenario.run_until_issued(validating, HALF_AN_HOUR, ca="other")
    assert scenario.longest(validating, ca="other") <= 90
