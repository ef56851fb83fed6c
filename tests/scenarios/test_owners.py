"""Nobody waits for an owner who orders the names of another."""

import pytest

from tests.scenarios.runner import Scenario, numbered

pytestmark = pytest.mark.django_db
TEN_MINUTES = 600.0


@pytest.fixture
def greedy(scenario: Scenario):
    return scenario.someone("greedy")


@pytest.fixture
def fakes_it(scenario: Scenario, greedy):
    """An endpoint that says yes and publishes nothing, with a time-out of a day."""
    made = scenario.credential(greedy, propagation_timeout=86400)
    scenario.zone.hidden.add(made.pk)
    return made


def test_anothers_exact_names_ordered_five_times(
    scenario: Scenario, greedy, fakes_it, account, credential
) -> None:
    """Somebody orders another's exact names from five accounts. The other renews at once."""
    names = scenario.issue(account, credential, ["www.victim.com"])
    for number in range(5):
        scenario.due(scenario.account(greedy, name=f"account {number}"), fakes_it, names)
    scenario.run(120)
    since = scenario.renew(names)
    scenario.run(since + TEN_MINUTES, lambda: len(scenario.ca.signed[names[0]]) > 1)
    assert scenario.longest(names, since=since) <= 60


@pytest.mark.slow
def test_fifty_names_of_anothers_domain(
    scenario: Scenario, greedy, fakes_it, account, credential
) -> None:
    """Somebody orders fifty names of another's domain. The other gets a new name at once."""
    scenario.due(scenario.account(greedy), fakes_it, numbered(50, "victim.com"))
    scenario.run(120)
    names = scenario.due(account, credential, ["new.victim.com"])
    scenario.run_until_issued(names, 120 + TEN_MINUTES)
    assert scenario.longest(names, since=120) <= 60
