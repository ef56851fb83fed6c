"""The renewal window of a CA is read, stored and followed (RFC 9773)."""

from datetime import timedelta

import pytest

from authorities.errors import Refused
from authorities.models import AcmeAccount
from certctrl import dispatch, lanes
from certctrl.turns import Trouble
from issuance import services
from issuance.beat import renewals, sweep
from issuance.models import Certificate, CertificateVersion, Issuance, LimitBucket, RenewalInfo
from issuance.renewal import ari, schedule
from tests.issuance.failing import read

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ari_offered")]

SIX_HOURS = 6 * 3600
A_DAY = timedelta(days=1)


@pytest.fixture
def certificate(world, account, credential) -> Certificate:
    made, _ = world.create(account, credential, "example.com")
    world.deliver()
    world.settle()
    world.advance(600)
    return read(made)


def info() -> RenewalInfo:
    return RenewalInfo.objects.order_by("pk").last()


def window(world) -> tuple:
    return world.ca.windows[info().version.ari_id]


def poll(world) -> RenewalInfo:
    """Advance to the next poll and run it."""
    world.advance(max(0.0, (info().wake_at - world.time).total_seconds()))
    world.sweep()
    return info()


def asked(world) -> int:
    return world.outside.calls.count("ca.renewal_info")


# --- the row ---


def test_a_version_is_polled_some_minutes_after_it_was_stored(world, account, credential):
    world.create(account, credential)
    world.deliver()
    assert timedelta(minutes=1) <= info().wake_at - world.time <= timedelta(minutes=5)
    assert 0 <= info().fraction < 1


@pytest.mark.slow
def test_a_crowd_is_polled_at_moments_that_are_spread(world, account, credential):
    for number in range(10):
        world.create(account, credential, f"host{number}.example.com")
    world.deliver()
    assert len(set(RenewalInfo.objects.values_list("wake_at", flat=True))) == 10
    assert len(set(RenewalInfo.objects.values_list("fraction", flat=True))) == 10


def test_a_certificate_without_an_authority_key_identifier_has_no_row(
    world, account, credential, monkeypatch
):
    monkeypatch.setattr("authorities.pki.ari_id", lambda leaf: "")
    world.create(account, credential)
    world.deliver()
    assert CertificateVersion.objects.exists()
    assert not RenewalInfo.objects.exists()


def test_a_private_ca_is_not_polled(world, account, credential, certificate):
    version = CertificateVersion.objects.get()
    RenewalInfo.objects.all().delete()
    version.account.private_ca_id = 1
    ari.begin(version)
    assert not RenewalInfo.objects.exists()


# --- the window ---


def test_the_answer_is_stored_and_the_renewal_moves_into_the_window(world, certificate):
    world.ca.explanation_url = "https://ca.test/why"
    found = poll(world)
    assert (found.window_start, found.window_end) == window(world)
    assert (found.explanation_url, found.checked_at, found.error_what) == (
        "https://ca.test/why",
        world.time,
        "",
    )
    assert read(certificate).renew_at == found.moment
    assert found.window_start <= found.moment <= found.window_end


def test_it_is_polled_at_least_twice_a_day_and_the_moment_is_drawn_once(world, certificate):
    moments = set()
    for _ in range(48):
        world.advance(3600)
        world.sweep()
        moments |= {read(certificate).renew_at}
    assert asked(world) >= 4
    assert len(moments) == 1


def test_a_window_that_moves_takes_the_moment_along(world, certificate):
    before = poll(world).moment
    world.ca.move_windows(-A_DAY)
    assert poll(world).moment == before - A_DAY
    assert read(certificate).renew_at == before - A_DAY


def test_a_window_in_the_past_renews_at_the_next_scan(world, certificate):
    world.ca.move_windows(timedelta(days=-70))
    poll(world)
    assert read(certificate).renew_at < world.time
    renewals.scan_renewals.run()
    world.sweep()
    assert read(certificate).current_id != certificate.current_id


def test_a_window_years_away_leaves_a_sixth_of_the_life(world, certificate):
    world.ca.move_windows(timedelta(days=9000))
    poll(world)
    assert read(certificate).renew_at == certificate.expires_at - timedelta(days=15)


def test_the_pause_is_what_the_ca_asks_for(world, certificate):
    world.ca.retry_after = 1800.0
    found = poll(world)
    assert timedelta(seconds=1800) <= found.wake_at - world.time <= timedelta(seconds=1980)


def test_a_window_does_not_move_a_renewal_that_is_switched_off(world, certificate):
    services.update_certificate(certificate, {"auto_renew": False})
    assert poll(world).moment
    assert read(certificate).renew_at is None


def test_switching_renewal_on_again_keeps_to_the_window(world, certificate):
    moment = poll(world).moment
    services.update_certificate(read(certificate), {"auto_renew": False})
    services.update_certificate(read(certificate), {"auto_renew": True})
    assert read(certificate).renew_at == moment


def test_days_before_make_it_earlier_than_the_window(world, certificate):
    poll(world)
    services.update_certificate(read(certificate), {"renew_days_before": 44})
    renew_at = read(certificate).renew_at
    assert (
        certificate.expires_at - timedelta(days=44, hours=1)
        <= renew_at
        <= certificate.expires_at - timedelta(days=44)
    )


def test_a_window_leaves_the_retry_of_a_failure_alone(world, certificate):
    world.ca.problems["new_order"] = [Refused("ca_caa", "No.")]
    services.issue(certificate)
    world.deliver()
    retry = read(certificate).renew_at
    poll(world)
    assert read(certificate).renew_at == retry


def test_a_window_leaves_the_renewal_of_an_open_attempt_to_its_end(world, certificate):
    world.zone.hides = True
    services.issue(certificate)
    poll(world)
    assert Issuance.objects.open().exists()
    assert read(certificate).renew_at is None


def test_a_renewal_that_somehow_got_lost_is_scheduled_again(world, certificate):
    moment = poll(world).moment
    Certificate.objects.update(renew_at=None)
    poll(world)
    assert read(certificate).renew_at == moment


def test_a_window_that_moves_does_not_put_off_what_is_due(world, certificate):
    Certificate.objects.update(renew_at=world.time)
    poll(world)
    assert read(certificate).renew_at <= world.time


def test_a_day_after_a_cancel_stays_while_the_window_does(world, certificate):
    poll(world)
    world.zone.hides = True
    services.issue(read(certificate))
    services.cancel(read(certificate))
    tomorrow = read(certificate).renew_at
    poll(world)
    assert read(certificate).renew_at == tomorrow


def test_the_jitter_of_our_own_reckoning_is_not_drawn_at_each_poll(world, certificate, monkeypatch):
    services.update_certificate(certificate, {"renew_days_before": 44})
    poll(world)
    before = read(certificate).renew_at
    for draw in (0.1, 0.5, 0.9):
        monkeypatch.setattr(schedule, "draw", lambda draw=draw: draw)
        poll(world)
        assert read(certificate).renew_at == before


def test_a_window_that_moved_ends_the_wait_for_a_limit(world, certificate):
    """The order may be in no bucket now."""
    poll(world)
    bucket = LimitBucket.objects.create(ca="", kind="set", level=0, at=world.time)
    Certificate.objects.update(renew_at=world.time, lacks=bucket)
    poll(world)
    assert read(certificate).lacks == bucket
    now = world.time
    version = read(certificate).current
    world.ca.windows[version.ari_id] = (now - A_DAY, now)
    poll(world)
    assert read(certificate).lacks is None


# --- when the window is no longer polled ---


def test_a_version_that_was_replaced_is_asked_about_no_more(world, certificate):
    services.issue(certificate)
    world.deliver()
    old, new = RenewalInfo.objects.order_by("pk")
    world.advance(600)
    world.sweep()
    old.refresh_from_db()
    assert (old.wake_at, asked(world)) == (None, 1)
    assert new.version == read(certificate).current


def test_a_retired_certificate_is_asked_about_no_more(world, certificate):
    services.retire(certificate)
    assert poll(world).wake_at is None
    assert asked(world) == 0


def test_an_expired_version_is_asked_about_no_more(world, certificate):
    Certificate.objects.update(renew_at=None, auto_renew=False)
    world.advance(91 * 86400)
    world.sweep()
    assert (info().wake_at, asked(world)) == (None, 0)


# --- when the CA does not answer as it should ---


def test_a_ca_without_renewal_info_is_asked_again_in_a_day(world, certificate):
    world.ca.offers_renewal_info = False
    before = certificate.renew_at
    found = poll(world)
    assert found.wake_at == world.time + A_DAY
    assert (found.window_start, found.checked_at, found.error_what) == (None, None, "")
    assert read(certificate).renew_at == before


def test_trouble_follows_the_retry_table_and_is_reported(world, certificate):
    world.ca.problems["renewal_info"] = [
        Trouble("ca_unreachable", "The CA could not be reached.")
    ] * 3
    for pause in (10, 20, 30):
        found = poll(world)
        assert found.error_what == "The CA could not be reached."
        assert found.wake_at == world.time + timedelta(seconds=pause)
    found = poll(world)
    assert (found.error_what, found.stumbles) == ("", 0)
    assert found.moment


def test_a_rate_limit_is_kept(world, certificate):
    world.ca.problems["renewal_info"] = [
        Trouble("ca_rate_limited", "Too many.", retry_after=3600.0)
    ]
    assert poll(world).wake_at == world.time + timedelta(hours=1)


@pytest.mark.parametrize(
    "refusal", [Refused("ca_not_found", "No such certificate."), Trouble("x", "Shut.", True)]
)
def test_a_refusal_is_reported_and_retried_at_the_usual_interval(world, certificate, refusal):
    window = poll(world).moment
    world.ca.problems["renewal_info"] = [refusal]
    found = poll(world)
    assert found.error_what == refusal.what
    assert timedelta(hours=6) <= found.wake_at - world.time <= timedelta(hours=7)
    assert (found.moment, read(certificate).renew_at) == (window, window)


@pytest.mark.slow
def test_windows_that_are_always_in_the_past_cause_one_renewal(
    world, account, credential, monkeypatch
):
    def open_window(order) -> None:
        order.ari_id = order.url
        world.ca.windows[order.ari_id] = (world.time - 2 * A_DAY, world.time - A_DAY)

    monkeypatch.setattr(world.ca, "open_window", open_window)
    monkeypatch.setattr("authorities.pki.ari_id", lambda leaf: list(world.ca.orders)[-1])
    world.create(account, credential, "example.com")
    for _ in range(3 * 24):
        world.sweep()
        renewals.scan_renewals.run()
        world.advance(3600)
    assert CertificateVersion.objects.count() == 2


# --- how many at once ---


def many(world, account, credential, count: int) -> None:
    for number in range(count):
        world.create(account, credential, f"host{number}-{account.pk}.example.com")
    world.deliver()


def sent(account: AcmeAccount) -> int:
    return RenewalInfo.objects.filter(version__account=account).exclude(queued_at=None).count()


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(dispatch, "OF_ONE", 4)


@pytest.mark.slow
def test_a_few_of_each_owner_are_asked_at_once(world, account, credential, bob, few):
    other = world.account(
        bob, directory_url="https://other.test/dir", url="https://other.test/acct/1"
    )
    many(world, account, credential, 6)
    many(world, other, world.credential(bob), 6)
    world.advance(600)
    for _ in range(3):
        sweep.sweep.run()
    assert (sent(account), sent(other)) == (4, 4)


@pytest.mark.slow
def test_an_unreachable_ca_does_not_delay_other_cas(
    world, account, credential, bob, few, monkeypatch
):
    monkeypatch.setattr(dispatch, "MOST_CONSIDERED", 5)
    other = world.account(
        bob, directory_url="https://other.test/dir", url="https://other.test/acct/1"
    )
    many(world, account, credential, 6)
    many(world, other, world.credential(bob), 3)
    world.advance(600)
    world.ca.problems["renewal_info"] = [Trouble("ca_unreachable", "The CA is away.")]
    with pytest.raises(Trouble):
        ari.poll(RenewalInfo.objects.filter(version__account=account).first().pk)
    RenewalInfo.objects.filter(version__account=account).update(wake_at=world.time - A_DAY)
    for _ in range(3):
        sweep.sweep.run()
    assert sent(account) == lanes.IN_TROUBLE
    assert sent(other) == 3


@pytest.mark.slow
def test_the_newest_answer_of_a_ca_says_how_many_are_polled(world, account, credential, few):
    many(world, account, credential, 6)
    world.advance(600)
    failed, well = RenewalInfo.objects.order_by("pk")[:2]
    world.ca.problems["renewal_info"] = [Trouble("ca_error", "The CA answered 500.")]
    with pytest.raises(Trouble):
        ari.poll(failed.pk)
    ari.poll(well.pk)
    sweep.sweep.run()
    assert sent(account) == 4


def test_a_sweep_without_windows_to_ask_for_asks_the_database_once(
    world, certificate, django_assert_num_queries
):
    with django_assert_num_queries(1):
        sweep.SECTIONS[RenewalInfo](world.time - A_DAY)


def test_a_window_that_moves_into_the_past_brings_a_failed_renewal_forward(world, certificate):
    later = world.time + timedelta(hours=24)
    Certificate.objects.update(failures=6, failing_since=world.time, renew_at=later)
    poll(world)
    assert read(certificate).renew_at == later, "a window that stays moves nothing"
    world.ca.move_windows(timedelta(days=-200))
    poll(world)
    assert read(certificate).renew_at == world.time + schedule.LEAST_RETRY


# --- what a person decided ---


def test_a_poll_does_not_undo_a_cancel(world, certificate):
    poll(world)
    services.issue(certificate)
    services.cancel(certificate)
    renew_at = read(certificate).renew_at
    world.ca.move_windows(timedelta(days=-80))
    poll(world)
    assert read(certificate).renew_at == renew_at


def test_a_poll_plans_no_renewal_that_no_device_could_open(world, certificate):
    Certificate.objects.update(key_policy="DEVICE_REQUIRED", renew_at=None)
    poll(world)
    assert read(certificate).renew_at is None
