"""An attempt that waits for its CA is looked at in time, and such looks leave threads to others."""

import pytest

from issuance.models import Issuance
from tests.scenarios.outside import slow
from tests.scenarios.runner import Scenario, numbered

pytestmark = pytest.mark.django_db
EVER = 1_000_000


@pytest.fixture
def crowd(scenario: Scenario, settings, account, credential):
    """Return a function that asks for many certificates of the owner at once."""
    scenario.limit(settings, account=[3000, 3.6])

    def ask(count: int, at=account) -> list[str]:
        return scenario.due(at, credential, numbered(count))

    return ask


@pytest.fixture
def checks(scenario: Scenario, owner):
    """An account at a CA that is still checking when it is asked first."""
    scenario.another_ca("checks").validation_reads = 1
    return scenario.account(owner, directory_url="https://checks.test/dir")


def test_a_check_beside_many_new_attempts(scenario: Scenario, checks, credential, crowd) -> None:
    """An owner asks for 401 certificates. The CA of one is not ready when it is asked first."""
    waits = scenario.due(checks, credential, ["www.waits.com"])
    crowd(400)
    scenario.run_until_issued(waits, 60, ca="checks")
    assert scenario.longest(waits, ca="checks") <= 5


@pytest.mark.slow
def test_new_attempts_beside_many_slow_checks(scenario: Scenario, owner, crowd) -> None:
    """A CA checks for ever, and answers late. Most threads serve new attempts meanwhile.

    Its orders take more threads than there are.
    """
    scenario.another_ca("late").validation_reads = EVER
    scenario.behave(slow(2.5), "late.read_order", "late.read_authorization")
    at_late = scenario.account(owner, directory_url="https://late.test/dir")
    crowd(300, at_late)
    scenario.run(90)
    other = scenario.someone("other")
    begun = Issuance.objects.filter(account=at_late).exclude(state=Issuance.State.QUEUED)
    assert begun.count() >= 62  # 43 if the checks had all threads
    names = scenario.due(scenario.account(other), scenario.credential(other), ["www.other.com"])
    scenario.run_until_issued(names, 300)
    assert scenario.longest(names, since=90) <= 6
