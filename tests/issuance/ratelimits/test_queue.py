"""For every response of the other side, calls and messages become rarer and end."""

import dataclasses
from datetime import timedelta

import pytest

from authorities.errors import Refused
from authorities.models import AcmeAccount
from certctrl import dispatch
from certctrl.errors import Conflict
from certctrl.turns import Trouble, Wait
from dnsproviders import credentials, propagation
from dnsproviders.models import TxtRecord
from issuance import services, tasks, workflow
from issuance.beat import pruning, sweep
from issuance.models import Certificate, CertificateVersion, Issuance
from issuance.workflow import machine
from keystore.models import Envelope
from tests.fakes import waiting
from tests.fakes.ca import FakeClient
from tests.fakes.outside import Died
from tests.fakes.zone import FakeProvider

pytestmark = pytest.mark.django_db
State = Issuance.State


def run(world, seconds: int, step: int) -> None:
    for _ in range(seconds // step):
        world.sweep()
        world.advance(step)


def registering(world, owner, **fields) -> AcmeAccount:
    return world.account(owner, url="", status="pending", wake_at=world.time, **fields)


def test_retry_after_zero_is_no_hot_loop_for_a_registration(world, owner):
    registering(world, owner)
    world.ca.problems["register"] = [Trouble("ca_error", "503", retry_after=0.0)] * 1000
    run(world, 120, 1)
    assert world.outside.calls.count("ca.register") <= 5


@pytest.mark.slow
def test_a_short_retry_after_does_not_keep_an_attempt_open_for_ever(world, account, credential):
    world.create(account, credential)
    world.ca.problems["new_order"] = [Trouble("ca_error", "503", retry_after=30.0)] * 10000
    run(world, 14 * 3600, 30)
    assert Issuance.objects.get().state == State.FAILED
    assert world.outside.calls.count("ca.new_order") < 60


@pytest.mark.slow
def test_attempts_that_wait_for_a_registration_grow_patient(world, owner, credential):
    account = registering(world, owner)
    world.ca.problems["register"] = [Trouble("ca_unreachable", "away")] * 1000
    world.create(account, credential)
    world.deliver()
    world.sent.clear()
    run(world, 1200, 5)
    assert world.sent.count("chain") < 1200 / 20


@pytest.mark.slow
def test_order_not_ready_is_asked_ever_rarer(world, account, credential):
    world.create(account, credential)
    world.ca.problems["finalize"] = [Wait(2.0, "Not ready.")] * 10000
    world.deliver()
    run(world, 1200, 5)
    assert world.outside.calls.count("ca.finalize") < 1200 / 20


def test_the_cas_own_pause_moves_the_deadline(world, account, credential, monkeypatch):
    _, issuance = world.create(account, credential)
    read_order = FakeClient.read_order
    pauses = []

    def pending_for_long(client, url):
        resource = read_order(client, url)
        if Issuance.objects.get(pk=issuance.pk).state == State.PROPAGATED and len(pauses) < 3:
            pauses.append(1800.0)
            return dataclasses.replace(resource, status="pending", retry_after=1800.0)
        return resource

    monkeypatch.setattr(FakeClient, "read_order", pending_for_long)
    world.deliver()
    run(world, 3 * 3600, 180)
    assert Issuance.objects.get().state == State.ISSUED


def test_cleanups_on_their_way_are_limited(world, credential):
    now = world.time
    TxtRecord.objects.bulk_create(
        TxtRecord(
            credential=credential, name=f"n{at}.example.com", value="v", intent_at=now, wake_at=now
        )
        for at in range(600)
    )
    for _ in range(5):
        sweep.sweep.run()
        world.advance(1)
    assert world.sent.count("issuance.cleanup") == dispatch.OF_ONE


def test_a_sweep_with_a_clock_ahead_delays_no_attempt(world, account, credential):
    _, issuance = world.create(account, credential)
    world.messages.clear()
    now = world.time
    Issuance.objects.update(wake_at=now + timedelta(seconds=1), queued_at=None)
    world.time = now + timedelta(seconds=2)
    sweep.sweep.run()
    world.time = now
    world.deliver()
    issuance.refresh_from_db()
    assert issuance.state == State.ISSUED


def test_after_a_broker_outage_in_a_sweep_the_next_sweep_sends_the_rest(
    world, account, credential, monkeypatch
):
    for number in range(3):
        world.create(account, credential, f"host{number}.example.com")
    Issuance.objects.update(queued_at=None)
    monkeypatch.setattr(tasks, "start", lambda *args, **kwargs: False)
    sweep.sweep.run()
    assert not Issuance.objects.exclude(queued_at=None).exists()


def test_a_look_that_raises_fails_no_attempt(world, account, credential, monkeypatch):
    world.zone.hides = True
    waiting.attempts(account, credential, [f"host{at}.example.com" for at in range(10)], world.time)

    def breaks(records, seconds=None):
        raise RuntimeError("no more threads")

    monkeypatch.setattr(propagation, "look", breaks)
    for _ in range(6):
        workflow.look()
        world.advance(31)
    assert Issuance.objects.open().filter(holder="", deaths=0).count() == 10
    assert "no more threads" not in Issuance.objects.first().waits_for


def test_a_look_stops_when_its_time_is_over_and_puts_back_what_is_left(
    world, account, credential, monkeypatch
):
    world.zone.hides = True
    waiting.attempts(
        account, credential, [f"host{at}.example.com" for at in range(100)], world.time
    )
    event = workflow.event

    def slow(*args, **kwargs):
        world.advance(0.5)
        return event(*args, **kwargs)

    monkeypatch.setattr(machine, "event", slow)
    began = world.passed
    workflow.look()
    assert world.passed - began <= workflow.TURN + 1
    assert not Issuance.objects.exclude(holder="").exists()


@pytest.mark.slow
def test_a_cleanup_that_breaks_sleeps_by_the_retry_table_and_says_so(
    world, account, credential, monkeypatch
):
    tried = []

    def breaks(provider, record):
        tried.append(record.pk)
        raise ValueError("secret detail")

    monkeypatch.setattr(FakeProvider, "cleanup", breaks)
    world.create(account, credential, "example.com")
    world.deliver()
    run(world, 6 * 3600, 60)
    record = TxtRecord.objects.get()
    assert len(tried) < 30
    assert record.left_behind
    assert "secret detail" not in record.left_behind


def test_a_row_that_kills_workers_does_not_do_so_for_ever(world, owner, settings):
    registering(world, owner)
    died = 0
    for _ in range(20):
        world.outside.die_at = (len(world.outside.calls), "before")
        try:
            world.sweep()
        except Died:
            died += 1
        world.messages.clear()
        world.advance(settings.LEASE + 1)
    assert died <= 6


def test_a_retired_account_registers_no_more(world, owner):
    account = registering(world, owner, retired_at=world.time)
    world.sweep()
    account.refresh_from_db()
    assert account.wake_at is None
    assert "ca.register" not in world.outside.calls


def test_a_refused_revocation_is_retried_once_a_day_until_expiry(world, account, credential):
    certificate, _ = world.create(account, credential)
    world.deliver()
    world.ca.problems["revoke"] = [Refused("ca_unauthorized", "No.", permanent=True)] * 500
    services.revoke(Certificate.objects.get(pk=certificate.pk))
    run(world, 10 * 86400, 6 * 3600)
    assert world.outside.calls.count("ca.revoke") <= 11
    world.advance(90 * 86400)
    run(world, 86400, 6 * 3600)
    version = CertificateVersion.objects.get()
    assert (version.wake_at, version.revoked_at) == (None, None)
    assert "expired" in version.revoke_error


def test_the_key_of_a_failed_attempt_whose_order_names_no_end_is_destroyed(
    world, account, credential
):
    world.ca.problems["download"] = [Refused("ca_bad_certificate", "No.")]
    world.create(account, credential)
    world.deliver()
    Issuance.objects.update(order_expires_at=None)
    world.advance(2 * 86400)
    pruning.prune.run()
    assert Issuance.objects.get().key is None


@pytest.mark.parametrize("has_it", ["an open attempt", "a version"])
def test_a_key_used_elsewhere_outlives_the_failed_attempt(world, account, credential, has_it):
    world.ca.problems["new_order"] = [Refused("ca_caa", "No.")]
    certificate, failed = world.create(account, credential)
    world.deliver()
    failed.refresh_from_db()
    services.issue(certificate)
    if has_it == "a version":
        world.deliver()
        CertificateVersion.objects.update(key=failed.key)
    else:
        Issuance.objects.open().update(key=failed.key)
    world.advance(2 * 86400)
    pruning.prune.run()
    holders = [
        *CertificateVersion.objects.filter(key=failed.key_id),
        *Issuance.objects.filter(key=failed.key_id),
    ]
    assert len(holders) == 1
    assert Envelope.objects.filter(pk=failed.key_id).exists()
    failed.refresh_from_db()
    assert failed.key is None


def test_a_credential_that_an_open_attempt_uses_stays(world, account, credential, owner):
    certificate, issuance = world.create(account, credential)
    workflow.take(workflow.STEPS[0], issuance.pk)
    services.update_certificate(certificate, {"credential": world.credential(owner, name="new")})
    with pytest.raises(Conflict, match=r"example\.com"):
        credentials.retire_credential(credential)


def test_ordering_again_waits_for_the_credential_once_more(world, account, owner):
    _, issuance = world.create(account, world.credential(owner, settle=60))
    world.deliver()
    issuance.refresh_from_db()
    assert issuance.settles_at
    world.advance(61)
    held = Issuance.objects.claim(issuance.pk)
    machine.settle(workflow.STEPS[3], held, workflow.order_again(held, "used"), 0.0)
    issuance.refresh_from_db()
    assert issuance.settles_at is None


def test_an_owner_of_many_accounts_delays_no_other_owner(
    world, owner, django_user_model, monkeypatch
):
    monkeypatch.setattr(dispatch, "OF_ONE", 2)
    for _ in range(40):
        registering(world, owner)
    other = django_user_model.objects.create_user("other@example.com")
    registering(world, other)
    sweep.sweep.run()
    sent = AcmeAccount.objects.exclude(queued_at=None).values_list("owner", flat=True)
    assert sorted(sent) == sorted([owner.pk, owner.pk, other.pk])


def test_an_attempt_ends_when_its_unregistered_account_is_deleted(world, owner, credential):
    account = world.account(owner, url="", status=AcmeAccount.Status.PENDING)
    _, issuance = world.create(account, credential)
    AcmeAccount.objects.update(retired_at=world.time)
    world.deliver()
    issuance.refresh_from_db()
    assert (issuance.state, issuance.error_what) == (
        Issuance.State.FAILED,
        "The account an account was deleted. Choose another account.",
    )
