"""After a wall clock was ahead and was corrected, no row waits longer than its own rule says."""

from datetime import timedelta

import pytest
from django.conf import settings
from django.core.cache import cache

from authorities.models import AcmeAccount, PrivateCA
from certctrl.turns import SKEW, SWEPT
from dnsproviders.models import TxtRecord
from issuance import services
from issuance.beat import clockstep, pruning, renewals, sweep
from issuance.models import (
    Certificate,
    CertificateVersion,
    Deployment,
    Drill,
    Issuance,
    LimitBucket,
    RenewalInfo,
)
from keystore import envelope
from notices import raising
from notices.models import Delivery, Notice
from tests.issuance.rollout.fleet import Fleet

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]

AHEAD = [timedelta(hours=2), timedelta(days=30)]
ahead = pytest.mark.parametrize("by", AHEAD, ids=["two hours", "thirty days"])
DAY = timedelta(days=1)
LEASE = timedelta(seconds=settings.LEASE)


def put_back(world, by: timedelta) -> None:
    world.time -= by


@pytest.mark.slow
@ahead
@pytest.mark.parametrize("sweeps", [1, 2, 4, 8])
def test_an_attempt_begun_with_a_clock_ahead_is_issued_after_correction(
    world, account, credential, by, sweeps
):
    sweep.sweep.run()
    world.time += by
    world.zone.hides = True
    certificate, _ = world.create(account, credential)
    for _ in range(sweeps):
        world.sweep()
        world.advance(30)
    world.zone.hides = False
    put_back(world, by)
    for _ in range(20):
        world.sweep()
        world.advance(30)
    certificate.refresh_from_db()
    assert certificate.current is not None
    assert not TxtRecord.objects.in_the_zone().exists()


@ahead
def test_a_worker_that_died_with_a_clock_ahead_holds_its_row_one_lease(
    world, account, credential, by
):
    sweep.sweep.run()
    _, issuance = world.create(account, credential)
    world.messages.clear()
    world.time += by
    assert Issuance.objects.claim(issuance.pk)
    sweep.sweep.run()
    put_back(world, by)
    world.sweep()
    assert Issuance.objects.get(pk=issuance.pk).holder
    world.settle()
    assert Issuance.objects.get(pk=issuance.pk).state == "issued"


@pytest.mark.parametrize("seconds", [61, 7200, 30 * 86400])
def test_a_message_that_was_sent_in_the_future_is_sent_again(world, account, credential, seconds):
    _, issuance = world.create(account, credential)
    sent = timedelta(seconds=seconds)
    Issuance.objects.update(queued_at=world.time + sent)
    assert Issuance.objects.sendable(world.time).get() == issuance
    assert not Issuance.objects.on_their_way().exists()


def test_a_message_of_a_machine_that_is_a_minute_ahead_is_on_its_way(world, account, credential):
    world.create(account, credential)
    Issuance.objects.update(queued_at=world.time + SKEW)
    assert not Issuance.objects.sendable(world.time).exists()
    assert Issuance.objects.on_their_way().count() == 1


def test_without_the_time_of_the_last_sweep_no_row_waits_beyond_its_rule(
    world, account, credential
):
    """Redis lost everything, and nobody noticed a clock that was ahead by a month."""
    world.create(account, credential)
    world.messages.clear()
    Issuance.objects.update(wake_at=world.time + 30 * DAY, deadline_at=world.time + 31 * DAY)
    AcmeAccount.objects.update(wake_at=world.time + 30 * DAY)
    pruning.prune.run()
    sweep.sweep.run()
    assert world.sent[-2:] == ["chain", "issuance.register"]
    assert Issuance.objects.get().deadline_at <= world.time + timedelta(hours=6)


@pytest.mark.parametrize("state", ["presented", "validated", "finalized"])
def test_a_deadline_of_a_day_stays_where_a_step_may_have_one(world, account, credential, state):
    """A record may wait a day for its credential, and a sent CSR a day for the CA."""
    world.create(account, credential)
    until = world.time + DAY
    Issuance.objects.update(state=state, csr_sent_at=world.time, deadline_at=until)
    pruning.prune.run()
    assert Issuance.objects.get().deadline_at == until


def test_two_clocks_that_differ_by_ninety_seconds_correct_nothing(world, account, credential):
    world.create(account, credential)
    seen = world.time + timedelta(seconds=90)
    Issuance.objects.update(preflighted_at=seen, holder="7-other", wake_at=seen + LEASE)
    pruning.prune.run()
    sweep.sweep.run()
    attempt = Issuance.objects.get()
    assert (attempt.preflighted_at, attempt.wake_at) == (seen, seen + LEASE)


def test_pauses_within_their_rule_stay_as_they_are(world, account, credential):
    world.create(account, credential)
    pause = world.time + timedelta(hours=6)
    Issuance.objects.update(wake_at=pause)
    pruning.prune.run()
    sweep.sweep.run()
    assert Issuance.objects.get().wake_at == pause


def test_a_minute_of_skew_between_machines_corrects_nothing(world, account, credential):
    world.create(account, credential)
    pause = world.time + timedelta(hours=6)
    Issuance.objects.update(wake_at=pause)
    cache.set(SWEPT, (world.time + SKEW).timestamp(), None)
    sweep.sweep.run()
    assert Issuance.objects.get().wake_at == pause


@ahead
def test_a_limit_that_was_used_in_the_future_is_open_again(world, account, by):
    bucket = LimitBucket.objects.create(
        ca="https://ca.test/dir", kind="busy", subject="1", level=1, at=world.time + by
    )
    cache.set(SWEPT, (world.time + by).timestamp(), None)
    sweep.sweep.run()
    bucket.refresh_from_db()
    assert bucket.at == world.time


def test_a_certificate_held_back_in_the_future_is_considered_again(world, account, credential):
    certificate = issued(world, account, credential)
    bucket = LimitBucket.objects.create(
        ca="https://ca.test/dir", kind="account", subject="1", level=0, at=world.time
    )
    later = certificate.expires_at + timedelta(days=400)
    Certificate.objects.update(renew_at=later, lacks=bucket)
    clockstep.correct(world.time)
    certificate.refresh_from_db()
    assert (certificate.lacks, certificate.renew_at) == (None, world.time)


def test_a_limit_that_the_ca_closed_for_a_week_stays_closed(world, account):
    until = world.time + timedelta(days=7)
    LimitBucket.objects.create(
        ca="https://ca.test/dir", kind="busy", subject="1", level=1, at=until
    )
    clockstep.correct(world.time)
    assert LimitBucket.objects.get().at == until


def issued(world, account, credential, name: str = "example.com") -> Certificate:
    certificate, _ = world.create(account, credential, name)
    world.deliver()
    world.settle()
    certificate.refresh_from_db()
    assert certificate.current
    return certificate


@ahead
def test_a_renewal_that_failed_while_the_clock_was_ahead_is_tried_again(
    world, account, credential, by
):
    certificate = issued(world, account, credential)
    soon = world.time + timedelta(days=20)
    Certificate.objects.update(
        failures=1,
        failing_since=world.time + by,
        renew_at=world.time + by + timedelta(hours=1),
        expires_at=soon,
    )
    cache.set(SWEPT, (world.time + by).timestamp(), None)
    sweep.sweep.run()
    certificate.refresh_from_db()
    assert certificate.renew_at == certificate.failing_since == world.time


def test_a_renewal_planned_after_the_end_is_brought_forward(world, account, credential):
    certificate = issued(world, account, credential)
    Certificate.objects.update(renew_at=certificate.expires_at + timedelta(hours=1))
    pruning.prune.run()
    renewals.scan_renewals.run()
    assert Issuance.objects.open_of(certificate)


def test_a_renewal_that_is_planned_by_its_life_stays_where_it_is(world, account, credential):
    certificate = issued(world, account, credential)
    planned = certificate.renew_at
    cache.set(SWEPT, (world.time + DAY).timestamp(), None)
    sweep.sweep.run()
    certificate.refresh_from_db()
    assert certificate.renew_at == planned


def test_renewal_windows_are_not_all_asked_for_at_once(world, account, credential):
    certificate = issued(world, account, credential)
    poll = world.time + timedelta(hours=8)
    info, _ = RenewalInfo.objects.update_or_create(
        version=certificate.current, defaults={"fraction": 0.5, "wake_at": poll}
    )
    cache.set(SWEPT, (world.time + timedelta(hours=2)).timestamp(), None)
    sweep.sweep.run()
    info.refresh_from_db()
    assert info.wake_at == poll


@ahead
def test_a_drill_that_began_in_the_future_replaces_each_certificate_once(
    world, account, credential, by
):
    issued(world, account, credential)
    CertificateVersion.objects.update(created_at=world.time - DAY)
    Drill.objects.create(by=account.owner, account=account, total=1)
    Drill.objects.update(created_at=world.time + by)
    cache.set(SWEPT, (world.time + by).timestamp(), None)
    for _ in range(4):
        sweep.sweep.run()
        renewals.advance_drills.run()
        renewals.scan_renewals.run()
        world.settle()
    assert Issuance.objects.count() == 2
    assert Drill.objects.get().ended_at


@ahead
def test_mails_of_the_future_do_not_fill_the_day(world, owner, by):
    raising.raise_once(owner, Notice.Kind.EXPIRING, "expiring:1:7", "soon", "soon")
    notice = Notice.objects.get()
    Delivery.objects.create(
        owner=owner, notice=notice, channel="email", begun_at=world.time + by, sent_at=world.time
    )
    clockstep.correct(world.time)
    assert Delivery.objects.get().begun_at == world.time


@ahead
def test_a_warning_that_was_given_by_the_wrong_date_is_given_again(world, owner, by):
    Notice.objects.create(
        owner=owner,
        kind="expiring",
        dedupe_key="expiring:1:7",
        raised_at=world.time + by,
        last_raised_at=world.time + by,
    )
    cache.set(SWEPT, (world.time + by).timestamp(), None)
    sweep.sweep.run()
    assert raising.raise_once(owner, Notice.Kind.EXPIRING, "expiring:1:7", "soon", "soon")


@ahead
def test_record_times_in_the_future_are_set_back_to_now(world, account, credential, by):
    world.zone.hides = True
    world.create(account, credential)
    world.deliver()
    TxtRecord.objects.update(
        intent_at=world.time + by, presented_at=world.time + by, unsure_until=world.time + by
    )
    Issuance.objects.update(state_since=world.time + by, preflighted_at=world.time + by)
    clockstep.correct(world.time)
    record = TxtRecord.objects.first()
    issuance = Issuance.objects.get()
    assert (record.intent_at, record.presented_at) == (world.time, world.time)
    assert issuance.state_since == issuance.preflighted_at == world.time


@ahead
def test_a_certificate_of_the_future_does_not_answer_the_same_request(
    world, account, credential, by
):
    spec = world.spec(account, credential, "example.com")
    certificate, _ = services.create_certificate(account.owner, spec, issue=True)
    world.deliver()
    world.settle()
    CertificateVersion.objects.update(created_at=world.time + by)
    certificate.refresh_from_db()
    assert not services._answers(certificate, spec, None)


@pytest.mark.slow
def test_a_first_issuance_given_up_by_a_wrong_clock_is_retried(world, account, credential):
    """An issuance is given up after a week, and thirty days seemed to have passed."""
    world.zone.hides = True
    certificate, _ = world.create(account, credential)
    sweep.sweep.run()
    Certificate.objects.update(failing_since=world.time, failures=1)
    ahead_by = timedelta(days=30)
    world.time += ahead_by
    for _ in range(60):
        world.sweep()
        world.advance(120)
        ahead_by += timedelta(seconds=120)
    certificate.refresh_from_db()
    assert (certificate.renew_at, Issuance.objects.open_of(certificate)) == (None, None)
    world.time -= ahead_by
    world.zone.hides = False
    sweep.sweep.run()
    renewals.scan_renewals.run()
    world.settle()
    certificate.refresh_from_db()
    assert certificate.current


def test_a_window_is_asked_for_again_after_a_version_only_seemed_expired(
    world, account, credential
):
    certificate = issued(world, account, credential)
    RenewalInfo.objects.update_or_create(
        version=certificate.current, defaults={"fraction": 0.5, "wake_at": None}
    )
    cache.set(SWEPT, (world.time + 100 * DAY).timestamp(), None)
    sweep.sweep.run()
    assert RenewalInfo.objects.get().wake_at <= world.time


def test_a_private_certificate_that_is_not_valid_yet_is_renewed(world, account, credential):
    certificate = issued(world, account, credential)
    ca = PrivateCA.objects.create(
        owner=account.owner,
        name="ours",
        key=envelope.seal(account.owner, "ca_key", b"unused"),
        key_size=256,
        not_before=world.time - DAY,
        not_after=world.time + 900 * DAY,
    )
    AcmeAccount.objects.update(private_ca=ca)
    CertificateVersion.objects.update(not_before=world.time + DAY)
    cache.set(SWEPT, (world.time + DAY).timestamp(), None)
    sweep.sweep.run()
    certificate.refresh_from_db()
    assert certificate.renew_at == world.time


@ahead
def test_a_rollout_of_the_future_is_looked_at_again(world, account, credential, by):
    fleet = Fleet(world, account, credential, count=2)
    fleet.renew()
    Deployment.objects.update(wanted_at=world.time + by, wake_at=world.time + by + DAY)
    clockstep.correct(world.time, stepped=True)
    world.sweep()
    assert set(Deployment.objects.values_list("wanted_at", "wake_at")) == {
        (world.time, world.time + DAY)
    }


def test_one_table_that_cannot_be_corrected_keeps_no_other_from_it(world, owner, monkeypatch):
    def broken(now, stepped):
        raise RuntimeError

    monkeypatch.setattr(clockstep, "_turns", broken)
    ahead = {"raised_at": world.time + DAY, "last_raised_at": world.time + DAY}
    Notice.objects.create(owner=owner, kind="expiring", dedupe_key="1", **ahead)
    clockstep.correct(world.time, stepped=True)
    assert Notice.objects.get().raised_at == world.time


def test_a_pause_that_the_ca_asked_for_is_kept(world, account, credential):
    info, _ = RenewalInfo.objects.update_or_create(
        version=issued(world, account, credential).current, defaults={"fraction": 0.5}
    )
    pause = world.time + 5 * DAY
    RenewalInfo.objects.update(wake_at=pause)
    pruning.prune.run()
    info.refresh_from_db()
    assert info.wake_at == pause
