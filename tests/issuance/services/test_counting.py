"""The numbers of an owner, for dashboards."""

from datetime import timedelta

import pytest

from issuance import services
from issuance.models import Certificate
from tests.issuance.failing import FOR_GOOD, issued, try_again

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]


def test_a_failure_for_good_is_counted_for_a_person(world, account, credential):
    issued(world, account, credential, "a.example.com")
    before = services.summary(account.owner)
    assert (before["total"], before["needs_person"], before["expired"]) == (1, 0, 0)
    try_again(world, FOR_GOOD)
    after = services.summary(account.owner)
    assert (after["needs_person"], after["retrying"], after["in_progress"]) == (1, 0, 0)


def test_a_failure_that_passes_is_counted_as_tried_again(world, account, credential):
    issued(world, account, credential, "a.example.com")
    Certificate.objects.update(failures=1)
    assert services.summary(account.owner)["retrying"] == 1


def test_renewals_and_ends_are_counted_by_day(world, account):
    today = world.time.date()
    noon = world.time.replace(hour=12, minute=0)
    for number, days in enumerate((1, 1, 89, 95)):
        Certificate.objects.create(
            owner=account.owner,
            account=account,
            domain=f"n{number}.example.com",
            names=[f"n{number}.example.com"],
            renew_at=noon + timedelta(days=days - 1, hours=18),
            expires_at=noon + timedelta(days=days),
            request_digest=str(number),
        )
    counted = {each.day: each for each in services.by_day(services.of_owner(account.owner))}
    assert len(counted) == 90
    assert counted[today + timedelta(days=1)].ends == 2
    assert counted[today + timedelta(days=89)].ends == 1
    assert sum(each.ends for each in counted.values()) == 3
    assert sum(each.renews for each in counted.values()) == 3


def test_others_are_not_counted(world, account, credential, bob):
    issued(world, account, credential, "a.example.com")
    assert services.summary(bob)["total"] == 0
    assert services.summary(bob)["soonest_end"] is None
