"""A CA that is away, or whose answers are lost, takes no token that it did not count."""

import pytest

from tests.scenarios.outside import LOST, UNAVAILABLE, UNREACHABLE, Manner
from tests.scenarios.runner import Scenario, numbered

pytestmark = pytest.mark.django_db
TWO_DAYS = 2 * 86400.0
AN_HOUR = 3600.0


def test_all_is_well(scenario: Scenario, account, credential) -> None:
    """All parties answer at once. A new certificate is issued within seconds."""
    names = scenario.due(account, credential, ["www.example.com"])
    scenario.run_until_issued(names, 60)
    assert scenario.longest(names) < 10


@pytest.mark.parametrize("manner", [UNREACHABLE, UNAVAILABLE], ids=["unreachable", "503"])
def test_four_minutes_away(scenario: Scenario, account, credential, manner: Manner) -> None:
    """The CA is away for four minutes. A new name is issued within two minutes of its return."""
    scenario.behave(manner, "ca", end=240)
    names = scenario.due(account, credential, ["www.example.com"])
    scenario.run_until_issued(names, TWO_DAYS)
    assert scenario.longest(names, since=240) <= 120


@pytest.mark.slow
def test_a_minute_away_with_fifty_names(scenario: Scenario, account, credential) -> None:
    """The CA is away for a minute. Fifty new names of one domain are issued within minutes."""
    scenario.behave(UNREACHABLE, "ca", end=60)
    names = scenario.due(account, credential, numbered(50, "example.com"))
    scenario.run_until_issued(names, AN_HOUR)
    assert scenario.longest(names, since=60) <= 120


def test_five_lost_answers(scenario: Scenario, account, credential) -> None:
    """The CA makes the order, and five answers are lost. The name is issued at the next try.

    The CA hands out the same order again. It counts a certificate only when it issues it.
    """
    scenario.behave(LOST, "ca.new_order", end=400)
    names = scenario.due(account, credential, ["www.example.com"])
    scenario.run_until_issued(names, TWO_DAYS)
    assert scenario.longest(names, since=400) <= 120
