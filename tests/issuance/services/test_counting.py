"""The numbers of an owner, for dashboards."""

from collections import Counter
from datetime import timedelta

import pytest
from django.db.models import Sum

from issuance import services
from issuance.models import Certificate, CertificateCount, CertificateVersion
from issuance.services import counting
from tests.issuance.failing import FOR_GOOD, issued, try_again

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]


def test_a_failure_for_good_is_counted_for_a_person(world, account, credential):
    issued(world, account, credential, "a.example.com")
    before = services.summary(account.owner)
    assert (before["total"], before["needs_person"], before["expired"]) == (1, 0, 0)
    try_again(world, FOR_GOOD)
    after = services.summary(account.owner)
    assert (after["needs_person"], after["retrying"], after["in_progress"]) == (1, 0, 0)


def test_a_good_version_over_a_revoked_one_is_not_revoked(world, account, credential):
    certificate = issued(world, account, credential, "a.example.com")
    services.issue(certificate)
    world.deliver()
    world.settle()
    old, new = CertificateVersion.objects.order_by("pk")
    for version, count in ((old, 0), (new, 1)):
        CertificateVersion.objects.filter(pk=version.pk).update(revoked_at=world.time)
        rows = services.of_owner(account.owner)
        assert counting.of_condition(rows, "revoked").count() == count


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
    total, days = services.total_and_days(account.owner)
    assert total == 4
    counted = {each.day: each for each in days}
    assert len(counted) == 90
    assert counted[today + timedelta(days=1)].ends == 2
    assert counted[today + timedelta(days=89)].ends == 1
    assert sum(each.ends for each in counted.values()) == 3
    assert sum(each.renews for each in counted.values()) == 3


def test_others_are_not_counted(world, account, credential, bob):
    issued(world, account, credential, "a.example.com")
    assert services.summary(bob)["total"] == 0
    assert services.summary(bob)["soonest_end"] is None


def recounted(owner) -> dict[tuple[str, object], int]:
    """Count the rows themselves, as the sums of CertificateCount should be."""
    rows = services.of_owner(owner)
    found = Counter({("all", None): rows.count()})
    for kind, column in (("renews", "renew_at"), ("ends", "expires_at")):
        for at in rows.exclude(**{column: None}).values_list(column, flat=True):
            found[kind, at.date()] += 1
    return +found


def sums(owner) -> dict[tuple[str, object], int]:
    rows = CertificateCount.objects.filter(owner=owner).values_list("kind", "day")
    counted = rows.annotate(sum=Sum("number")).order_by()
    return {(kind, day): number for kind, day, number in counted if number}


def test_the_counts_follow_every_change(world, account, credential, owner):
    for number in range(3):
        world.advance(86400.0)
        issued(world, account, credential, f"n{number}.example.com")
        assert sums(owner) == recounted(owner)
    one, other, _third = services.of_owner(owner)
    one.renew_at = world.time + timedelta(days=1)
    one.save()
    assert sums(owner) == recounted(owner)
    services.retire(other)
    assert sums(owner) == recounted(owner)
    Certificate.objects.filter(pk=other.pk).update(expires_at=world.time)
    assert sums(owner) == recounted(owner)
    Certificate.objects.update(expires_at=None, renew_at=None)
    assert sums(owner) == recounted(owner) == {("all", None): 2}
    assert services.total(owner) == 2


def test_adding_up_keeps_each_sum_in_one_row(world, account, credential, owner):
    for number in range(3):
        issued(world, account, credential, f"n{number}.example.com")
    before = sums(owner)
    services.add_up()
    assert sums(owner) == before
    assert CertificateCount.objects.count() == len(before)
    rows = list(CertificateCount.objects.values_list("pk", flat=True))
    services.add_up()
    assert list(CertificateCount.objects.values_list("pk", flat=True)) == rows


def test_no_more_are_counted_than_a_page_says(world, account, credential, owner, monkeypatch):
    monkeypatch.setattr(counting, "MOST_COUNTED", 2)
    for number in range(3):
        issued(world, account, credential, f"n{number}.example.com")
    assert services.count(services.of_owner(owner)) == 2
