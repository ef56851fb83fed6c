"""When the own account has failed for long, a second one is tried in turn with it."""

from datetime import timedelta

import pytest

from authorities.models import AcmeAccount
from certctrl.turns import Trouble
from issuance import models, services
from issuance.beat import renewals
from issuance.models import Certificate, Issuance
from issuance.renewal import failover
from notices.models import Notice
from tests.fakes.ca import FakeCA
from tests.issuance.failing import CAA, FOR_GOOD, fail, issued, last, limit, read, try_again

pytestmark = pytest.mark.django_db
State = Issuance.State
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@pytest.fixture
def fallback(world, owner) -> AcmeAccount:
    world.cas["zerossl"] = FakeCA(world.outside, world.zone, name="other")
    return world.account(owner, name="other", ca_provider="zerossl")


@pytest.fixture
def certificate(world, account, credential, fallback) -> Certificate:
    return issued(world, account, credential, fallback_account_id=fallback.pk)


def fail_for(world, time: timedelta) -> None:
    """Fail once at the own account. The next attempt is due after `time`."""
    fail(world, 1)
    began = world.time
    Certificate.objects.update(renew_at=began + time)


def accounts_of(world, times: int) -> list[int]:
    return [fail(world, 1).account_id for _ in range(times)]


def test_before_its_time_the_fallback_account_is_left_alone(world, certificate, account):
    fail_for(world, 23 * HOUR)
    assert try_again(world).account == account


def test_after_a_day_of_failing_the_accounts_take_turns_the_fallback_first(
    world, certificate, account, fallback
):
    fail_for(world, 24 * HOUR)
    assert accounts_of(world, 4) == [fallback.pk, account.pk, fallback.pk, account.pk]


def test_the_time_is_a_setting(world, certificate, fallback, settings):
    settings.FALLBACK_AFTER = 3 * 3600
    fail_for(world, 3 * HOUR)
    assert try_again(world).account == fallback


@pytest.mark.parametrize(
    ("left", "patience"),
    [
        (None, DAY),
        (40 * DAY, DAY),
        (3 * DAY, DAY),
        (71 * HOUR, 71 * HOUR / 4),
        (4 * HOUR, HOUR),
        (-DAY, timedelta(0)),
    ],
)
def test_with_little_time_left_the_patience_is_a_quarter_of_it(world, left, patience):
    assert failover.patience(None if left is None else world.time + left) == patience


def test_an_expired_certificate_is_tried_there_at_once(world, certificate, fallback):
    Certificate.objects.update(renew_at=certificate.expires_at + HOUR)
    fail(world, 1)
    assert try_again(world).account == fallback


def test_after_a_fallback_the_next_renewal_begins_with_the_own_account(
    world, certificate, account, fallback
):
    fail_for(world, 24 * HOUR)
    attempt = try_again(world)
    version = read(certificate).current
    assert (version.issuance, version.account) == (attempt, fallback)
    assert attempt.names_key == models.names_key(fallback, certificate.names)
    assert read(certificate).failing_since is None
    world.settle()
    assert world.zone.txt() == []
    assert try_again(world).account == account
    assert read(certificate).account == account


def test_a_version_of_the_fallback_is_revoked_at_the_fallback(world, certificate, fallback):
    fail_for(world, 24 * HOUR)
    try_again(world)
    services.revoke(read(certificate))
    world.deliver()
    assert len(world.cas["zerossl"].revoked) == 1
    assert world.ca.revoked == []


def test_a_first_issuance_is_tried_there_too(world, account, credential, fallback):
    world.ca.problems["new_order"] = [CAA]
    certificate, _ = world.create(account, credential, fallback_account_id=fallback.pk)
    world.deliver()
    Certificate.objects.update(renew_at=world.time + DAY)
    assert try_again(world).account == fallback
    assert read(certificate).status == "active"


def test_a_refusal_by_the_fallback_does_not_end_a_first_issuance(
    world, account, credential, fallback
):
    world.ca.problems["new_order"] = [CAA]
    certificate, _ = world.create(account, credential, fallback_account_id=fallback.pk)
    world.deliver()
    Certificate.objects.update(renew_at=world.time + DAY)
    attempt = fail(world, 1, FOR_GOOD)
    assert (attempt.account, attempt.failure) == (fallback, "permanent")
    assert try_again(world).account == account
    assert read(certificate).status == "active"


@pytest.mark.parametrize("change", [{"status": "refused"}, {"status": "deactivated"}])
def test_an_account_that_is_of_no_use_is_passed_over(world, certificate, account, fallback, change):
    fail_for(world, 24 * HOUR)
    AcmeAccount.objects.filter(pk=fallback.pk).update(**change)
    assert try_again(world).account == account


def test_a_queue_at_the_own_account_is_no_failing(world, certificate, account):
    """An attempt that the limits delay for weeks is ordered at its slot."""
    world.advance(3600)
    services.issue(certificate)
    world.ca.problems["new_order"] = [limit(5 * 24, "ca_limit_wait")]
    world.deliver()
    assert read(certificate).renew_at - world.time > 4 * DAY
    assert try_again(world).account == account


def test_a_person_who_renews_gets_the_own_account(world, certificate, account):
    fail_for(world, 24 * HOUR)
    world.ca.problems.clear()
    world.advance(25 * 3600)
    services.issue(read(certificate))
    world.deliver()
    assert (last().account, last().state) == (account, State.ISSUED)


def test_the_events_say_which_account_is_tried_and_why(world, certificate):
    fail_for(world, 24 * HOUR)
    first = fail(world, 1)
    since = f"{read(certificate).failing_since:%Y-%m-%d %H:%M} UTC"
    assert (
        first.events.first().what
        == f"an account has failed since {since}, so the fallback account other is tried."
    )
    second = fail(world, 1)
    assert second.events.first().what == (
        f"an account has failed since {since}, so it alternates with the fallback account."
    )


def test_an_ordinary_attempt_explains_nothing(world, certificate):
    attempt = try_again(world)
    assert not attempt.events.filter(step="choose").exists()


def test_staging_is_asked_when_it_is_the_own_accounts_turn(
    world, certificate, account, owner, fallback
):
    staging = world.account(owner, name="sandbox", ca_provider="letsencrypt_staging")
    AcmeAccount.objects.filter(pk=account.pk).update(staging_first=True, staging_account=staging)
    fail(world, 2)
    fail_for(world, 24 * HOUR)
    assert accounts_of(world, 4) == [fallback.pk, staging.pk, fallback.pk, staging.pk]
    assert try_again(world).account == fallback


@pytest.mark.slow
def test_production_comes_after_its_proof_before_the_fallback(
    world, certificate, account, owner, fallback
):
    staging = world.account(owner, name="sandbox", ca_provider="letsencrypt_staging")
    AcmeAccount.objects.filter(pk=account.pk).update(staging_first=True, staging_account=staging)
    fail(world, 2)
    fail_for(world, 24 * HOUR)
    assert fail(world, 1).account == fallback
    assert try_again(world).proves
    assert fail(world, 1).account == account
    assert fail(world, 1).account == fallback


def test_a_scan_of_many_asks_no_more_for_those_that_do_not_fail(
    world, account, credential, fallback, django_assert_max_num_queries
):
    """The choice costs a query only for a certificate that is failing."""
    certificate = issued(
        world, account, credential, "a.example.com", fallback_account_id=fallback.pk
    )
    healthy = Certificate.objects.select_related("account").get(pk=certificate.pk)
    with django_assert_max_num_queries(0):
        assert failover.account_for(healthy, Issuance.Reason.RENEWAL) == (account, False)


def test_a_new_attempt_is_not_saved(world, certificate, account):
    before = Issuance.objects.count()
    attempt = services.new_issuance(read(certificate), Issuance.Reason.RENEWAL, None)
    assert (attempt.pk, attempt.account) == (None, account)
    assert Issuance.objects.count() == before
    Certificate.objects.update(renew_at=world.time)
    renewals.scan_renewals.run()
    assert last().number == 2


@pytest.mark.slow
def test_a_ca_that_is_busy_for_days_has_failed_too(world, account, credential, fallback):
    world.ca.life = timedelta(days=6)
    made = issued(world, account, credential, fallback_account_id=fallback.pk)
    busy = Trouble("ca_rate_limited", "Service busy; retry later.", retry_after=300)
    world.ca.problems["new_order"] = [busy] * 10_000
    world.advance((made.renew_at - world.time).total_seconds())
    for _ in range(2 * 24 * 6):
        renewals.scan_renewals.run()
        world.sweep()
        world.advance(600)
    assert read(made).current.account == fallback
    assert world.outside.calls.count("ca.new_order") < 200
    assert Notice.objects.filter(kind=Notice.Kind.RENEWAL_FAILED).exists()
