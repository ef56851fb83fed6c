"""A due certificate stays due until the limits of its CA leave room for its order."""

from datetime import timedelta

import pytest

from accounts.models import User
from issuance import ratelimits, services
from issuance.beat import renewals
from issuance.models import (
    Certificate,
    CertificateVersion,
    Issuance,
    LimitBucket,
    RenewalInfo,
    Reservation,
)
from issuance.ratelimits import queue
from issuance.ratelimits.ledger import Ledger

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def limits(settings) -> None:
    settings.ACME_CAS = {"custom": {"limits": {"account": [2, 7200], "domain": [3, 7200]}}}


@pytest.fixture
def due(world, account, credential):
    """Make certificates that are due and were never issued."""

    def make(*names: str, account=account, **fields) -> list[Certificate]:
        ids = []
        for name in names:
            spec = world.spec(account, credential, name)
            made, _ = services.create_certificate(account.owner, spec, issue=False)
            ids.append(made.pk)
        rows = Certificate.objects.filter(pk__in=ids)
        rows.update(**{"renew_at": world.time} | fields)
        return list(rows.order_by("pk"))

    return make


@pytest.fixture
def renewable(world, due):
    """Make certificates that are due and have a version."""

    def make(*names: str, days: int, **fields) -> list[Certificate]:
        made = due(*names, expires_at=world.time + days * DAY, **fields)
        for each in made:
            attempt = Issuance.objects.create(
                certificate=each,
                account=each.account,
                state=Issuance.State.ISSUED,
                state_since=world.time,
                deadline_at=world.time,
                ended_at=world.time,
            )
            version = CertificateVersion.objects.create(
                certificate=each,
                issuance=attempt,
                account=each.account,
                ari_id=f"ari{each.pk}",
                serial=str(each.pk),
                not_before=world.time,
                not_after=each.expires_at,
            )
            Certificate.objects.filter(pk=each.pk).update(current=version)
        return made

    return make


@pytest.fixture
def no_tokens(world, settings):
    """Empty the buckets of the certificates' exact names."""

    def empty(certificates: list[Certificate]) -> list[Certificate]:
        settings.ACME_CAS = {"custom": {"limits": {"set": [1, 7200]}}}
        for each in certificates:
            ratelimits.charges_of(services.new_issuance(each, "renewal", None))
        LimitBucket.objects.update(level=0, at=world.time)
        return certificates

    return empty


def names(count: int, domain: str = "") -> list[str]:
    return [f"host{at}.{domain or f'domain{at}.com'}" for at in range(count)]


def opened() -> list[str]:
    rows = Issuance.objects.open().order_by("pk")
    return list(rows.values_list("certificate__domain", flat=True))


def held() -> list[str]:
    rows = Certificate.objects.filter(lacks__isnull=False)
    return list(rows.order_by("pk").values_list("domain", flat=True))


# --- what is opened ---


def test_only_those_with_a_token_within_an_hour_are_opened(world, due):
    due(*names(5))
    renewals.scan_renewals.run()
    assert opened() == names(5)[:2]
    assert held() == names(5)[2:]
    assert Certificate.objects.filter(domain__in=held(), renew_at=world.time).count() == 3


def test_the_next_is_opened_when_its_token_is_an_hour_away(world, due):
    due(*names(4))
    renewals.scan_renewals.run()
    world.sweep()
    for minutes, count in ((59, 2), (2, 3)):
        world.advance(minutes * 60)
        renewals.scan_renewals.run()
        assert Issuance.objects.count() == count


def test_attempts_that_wait_for_their_tokens_are_counted(due):
    due(*names(5))
    renewals.scan_renewals.run()
    renewals.scan_renewals.run()
    assert len(opened()) == 2


def test_a_full_domain_delays_no_other_domain(world, due, settings):
    settings.ACME_CAS = {"custom": {"limits": {"domain": [1, 7200]}}}
    due(*names(3, "busy.com"), "www.free.com")
    renewals.scan_renewals.run()
    assert opened() == ["host0.busy.com", "www.free.com"]


def test_renewals_go_before_new_ones_and_the_soonest_first(due, renewable, settings):
    settings.ACME_CAS = {"custom": {"limits": {"set": [1, 7200], "domain": [1, 7200]}}}
    due("new.example.com")
    renewable("late.example.com", days=9)
    renewable("soon.example.com", days=3)
    renewals.scan_renewals.run()
    assert opened() == ["soon.example.com", "late.example.com", "new.example.com"]


def test_one_that_expires_sooner_goes_before_those_held_back(world, due):
    due(*names(4), expires_at=world.time + 9 * DAY)
    renewals.scan_renewals.run()
    world.sweep()
    due("soon.example.com", expires_at=world.time + DAY)
    world.advance(3700)
    renewals.scan_renewals.run()
    assert opened() == ["soon.example.com"]
    assert held() == names(4)[2:]


def test_an_owner_of_many_names_of_a_domain_delays_no_other_owner(world, due, settings):
    settings.ACME_CAS = {"custom": {"limits": {"domain": [2, 7200]}}}
    due(*names(5, "shared.com"))
    theirs = world.account(User.objects.create_user("x@example.com"), url="https://ca.test/a/2")
    due("theirs.shared.com", account=theirs)
    renewals.scan_renewals.run()
    assert opened() == ["host0.shared.com", "theirs.shared.com", "host1.shared.com"]
    assert len(held()) == 3


def test_an_order_in_its_renewal_window_is_not_held_back(world, renewable, no_tokens):
    closed, exempt = no_tokens(renewable(*names(2), days=3))
    RenewalInfo.objects.create(
        version_id=Certificate.objects.get(pk=exempt.pk).current_id,
        fraction=0.5,
        window_start=world.time - DAY,
        window_end=world.time + DAY,
    )
    renewals.scan_renewals.run()
    assert opened() == [exempt.domain]
    assert held() == [closed.domain]


def test_a_renewal_with_a_fallback_account_is_not_held_back(world, renewable, owner, no_tokens):
    other = world.account(owner, name="other", url="https://ca.test/acct/2")
    no_tokens(renewable("a.example.com", days=3, fallback_account=other))
    renewals.scan_renewals.run()
    assert opened() == ["a.example.com"]


def test_those_held_back_make_no_buckets(due):
    due(*names(5))
    renewals.scan_renewals.run()
    domains = LimitBucket.objects.filter(kind="domain").values_list("subject", flat=True)
    assert set(domains) <= {f"domain{number}.com" for number in range(5)}
    due(*(f"late{number}.org" for number in range(5)))
    renewals.scan_renewals.run()
    assert not LimitBucket.objects.filter(subject__endswith=".org").exists()


# --- what ends the wait ---


def test_a_person_need_not_wait_for_the_scan(due):
    *_, last = due(*names(3))
    renewals.scan_renewals.run()
    services.issue(Certificate.objects.get(pk=last.pk))
    assert last.domain in opened()
    assert not held()


def test_a_limit_that_is_removed_holds_nothing_back(due, settings):
    due(*names(5))
    renewals.scan_renewals.run()
    settings.ACME_CAS = {}
    renewals.scan_renewals.run()
    assert sorted(opened()) == names(5)


def test_a_deleted_certificate_is_held_back_no_more(due):
    *_, last = due(*names(3))
    renewals.scan_renewals.run()
    services.retire(Certificate.objects.get(pk=last.pk))
    assert not held()


# --- what is shown ---


def test_the_api_says_when_it_will_be_ordered(world, due, client_of, owner):
    made = due(*names(4))
    renewals.scan_renewals.run()
    world.sweep()
    client = client_of(owner)
    slots = [
        client.get(f"/apiv1/me/certificates/{each.pk}").data_member["renewal"]["slot_at"]
        for each in made
    ]
    now = int(world.time.timestamp())
    assert slots == [None, None, now + 7200, now + 2 * 7200]
    shown = client.get("/apiv1/me/certificates").data_member
    assert {each["renewal"]["slot_at"] for each in shown} == {None}


def test_the_limits_count_those_that_are_held_back(world, due, account):
    due(*names(5))
    renewals.scan_renewals.run()
    world.sweep()
    shown = {each["kind"]: each["waiting"] for each in ratelimits.levels(account)}
    assert shown["account"] == 3


def test_equal_expiries_are_counted_in_the_estimate(world, renewable, settings):
    settings.ACME_CAS = {"custom": {"limits": {"set": [1, 7200], "domain": [10, 60]}}}
    renewable(*names(3), days=3)
    bucket = LimitBucket.objects.create(
        ca="https://ca.test/dir", kind="domain", subject="x", level=0, at=world.time
    )
    places = []
    for each in Certificate.objects.order_by("pk"):
        attempt = services.open_issuance(each, Issuance.Reason.RENEWAL)
        places.append((queue.place_of(attempt), {bucket.pk: 1}))
    ratelimits.queue_up(places)
    ledger = Ledger([bucket.pk], lock=False)
    waits = [queue.estimate(ledger, place, costs)[1] - world.time for place, costs in places]
    assert waits == [timedelta(seconds=60 * count) for count in (1, 2, 3)]


# --- what is pruned ---


def test_full_buckets_that_nothing_uses_are_deleted(world, due, settings):
    due(*names(3))
    renewals.scan_renewals.run()
    world.sweep()
    world.settle()
    assert LimitBucket.objects.exists()
    world.advance(20 * 86400)
    ratelimits.prune()
    assert not Reservation.objects.exists()
    assert not LimitBucket.objects.exists()
