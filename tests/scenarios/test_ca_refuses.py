"""A CA that refuses one order refuses no other order."""

from itertools import pairwise

import pytest

from issuance.models import Issuance
from tests.scenarios.outside import refusal
from tests.scenarios.runner import Scenario, numbered

pytestmark = pytest.mark.django_db
AN_HOUR = 3600.0
PAUSED = (
    "Your account is temporarily prevented from requesting certificates for {} and possibly"
    " others. Please visit: https://portal.letsencrypt.org/sfe/v1/unpause?jwt=token"
)
UNKNOWN = "Slow down, please."


def pause(scenario: Scenario, paused: list[str]) -> None:
    def refuse(names):
        return refusal(429, PAUSED.format(names[0])) if names[0] in paused else None

    scenario.ca.refuses = refuse


def test_a_paused_name_needs_a_person(scenario: Scenario, account, credential) -> None:
    """The CA pauses one name. It is not tried again until somebody has unpaused it."""
    names = scenario.due(account, credential, ["www.paused.com"])
    pause(scenario, names)
    scenario.run(AN_HOUR)
    assert scenario.last(names[0]).failure == Issuance.Failure.PERMANENT
    assert scenario.next_try(names[0]) is None


def test_others_while_a_name_is_paused(scenario: Scenario, account, credential) -> None:
    """The CA pauses one name of an account. Twenty other names are issued at once."""
    pause(scenario, scenario.due(account, credential, ["www.paused.com"]))
    scenario.run(20)
    names = scenario.due(account, credential, numbered(20))
    scenario.run_until_issued(names, AN_HOUR)
    assert scenario.longest(names, since=20) <= 5


@pytest.mark.slow
def test_eight_paused_names_that_expired(scenario: Scenario, account, credential) -> None:
    """The CA pauses eight expired names. New names of the next four hours are issued at once."""
    scenario.sweep_every = 5
    paused = scenario.issue(account, credential, numbered(8, "paused.com"))
    pause(scenario, paused)
    scenario.renew(paused, expires_at=scenario.scheduler.now())
    waits = []
    for number in range(1, 13):
        scenario.run(number * 1200)
        [name] = scenario.due(account, credential, [f"www.new{number}.com"])
        scenario.run_until_issued([name], (number + 1) * 1200)
        waits.append(scenario.longest([name], since=number * 1200))
    assert max(waits) <= 60, waits


@pytest.mark.parametrize("seconds", [3600, pytest.param(7 * 86400, marks=pytest.mark.slow)])
def test_others_after_an_unknown_429(scenario: Scenario, account, credential, seconds: int) -> None:
    """The CA refuses one order with 429 and unknown words. Other orders of the account go on."""
    [refused] = scenario.due(account, credential, ["www.refused.com"])
    scenario.ca.refuses = lambda names: (
        refusal(429, UNKNOWN, seconds) if names[0] == refused else None
    )
    scenario.run(20)
    names = scenario.due(account, credential, numbered(20))
    scenario.run_until_issued(names, AN_HOUR)
    assert scenario.longest(names, since=20) <= 5


@pytest.mark.slow
def test_an_unknown_429_for_all_orders(scenario: Scenario, account, credential) -> None:
    """The CA refuses all orders of an account for ten minutes, without a time to come back.

    A few orders are enough to see that. All names are issued within five minutes after.
    """
    scenario.ca.refuses = lambda names: (
        refusal(429, UNKNOWN) if scenario.scheduler.passed < 600 else None
    )
    names = scenario.due(account, credential, numbered(40))
    scenario.run(600)
    refused = sum(map(len, scenario.ca.orders_of.values()))
    scenario.run_until_issued(names, 3 * AN_HOUR)
    assert refused <= 30
    assert scenario.longest(names, since=600) <= 120


@pytest.mark.slow
def test_one_probe_at_a_time_while_all_orders_are_refused(
    scenario: Scenario, account, credential
) -> None:
    """The CA refuses all orders for half an hour, and asks to come back in a minute each time.

    The first eight are under way at once. Then one order at a time asks whether it takes them.
    """
    scenario.ca.refuses = lambda names: (
        refusal(429, UNKNOWN, 60) if scenario.scheduler.passed < 1800 else None
    )
    names = scenario.due(account, credential, numbered(40))
    scenario.run(1800)
    probes = [at for at in scenario.outside.moments("ca.new_order") if at > 30]
    scenario.run_until_issued(names, 3 * AN_HOUR)
    assert 20 <= len(probes) <= 30
    assert min(later - probe for probe, later in pairwise(probes)) >= 60
    assert scenario.longest(names, since=1800) <= 120
