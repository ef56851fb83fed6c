"""A CA that is away, or whose answers are lost, takes no token that it did not count."""

import pytest

from tests.scenarios.outside import LOST, UNAVAILABLE, UNREACHABLE, Manner
from tests.scenarios.runner import NOT_YET, Scenario, numbered

pytestmark = pytest.mark.django_db
A_WEEK = 7 * 86400.0


def test_nothing_is_wrong(scenario: Scenario, account, credential) -> None:
    """All parties answer well. One new certificate is issued within seconds."""
    names = scenario.due(account, credential, ["www.example.com"])
    scenario.run_until_issued(names, 60)
    assert scenario.longest(names) < 10


@pytest.mark.parametrize("manner", [UNREACHABLE, UNAVAILABLE], ids=["unreachable", "503"])
def test_four_minutes_without_the_ca(scenario: Scenario, account, credential, manner: Manner):
    """The CA is away for four minutes. One new name is issued within two minutes of its return."""
    scenario.behave(manner, "ca", end=240)
    names = scenario.due(account, credential, ["www.example.com"])
    scenario.run_until_issued(names, A_WEEK)
    last = scenario.last(names[0])
    print(scenario.waits(names), last.number, last.state, scenario.next_try(names[0]))
    assert scenario.longest(names, since=240) <= 120
