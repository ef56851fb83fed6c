"""The ledger of rate limits holds back what the CA would refuse, and nothing else."""

import pytest

from issuance.models import Issuance, IssuanceEvent
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
