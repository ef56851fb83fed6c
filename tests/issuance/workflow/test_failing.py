"""An attempt that fails: its retries, its end, and its events."""

import dataclasses
from datetime import timedelta
from itertools import pairwise

import pytest
from django.db import DataError, OperationalError

from authorities import pki
from authorities.errors import Refused
from authorities.models import AcmeAccount
from certctrl.turns import RETRIES, Trouble, Wait
from dnsproviders.base import ProviderError
from dnsproviders.models import TxtRecord
from issuance import services, workflow
from issuance.beat import renewals
from issuance.models import Certificate, CertificateVersion, Issuance
from issuance.workflow import machine
from tests.fakes import ca
from tests.fakes.ca import REFUSED, TROUBLE

pytestmark = pytest.mark.django_db
State = Issuance.State


def only() -> Issuance:
    return Issuance.objects.order_by("pk").last()


def test_trouble_is_reported_and_retried_by_the_retry_table(world, account, credential):
    world.ca.problems["new_order"] = [TROUBLE]
    world.create(account, credential)
    world.deliver()
    assert (only().state, only().stumbles, only().waits_for) == (
        State.QUEUED,
        1,
        "The CA could not be reached.",
    )
    assert only().wake_at == world.time + timedelta(seconds=10)
    world.advance(10)
    world.sweep()
    assert only().state == State.ISSUED


def test_a_refusal_ends_the_attempt_with_the_cas_words_and_cleans_up(world, account, credential):
    world.ca.problems["finalize"] = [REFUSED]
    certificate, _ = world.create(account, credential)
    world.deliver()
    assert (only().state, only().error_code, only().error_what) == (
        State.FAILED,
        "ca_caa",
        REFUSED.what,
    )
    assert only().events.last().outcome == "failed"
    world.settle()
    assert world.zone.txt() == []
    certificate.refresh_from_db()
    assert certificate.failures == 1
    assert world.time < certificate.renew_at < world.time + timedelta(hours=2)


def test_a_permanent_refusal_of_a_first_issuance_asks_for_a_person(world, account, credential):
    world.ca.problems["new_order"] = [Refused("ca_rejected_identifier", "No.", permanent=True)]
    certificate, _ = world.create(account, credential)
    world.deliver()
    certificate.refresh_from_db()
    assert (certificate.renew_at, certificate.status) == (None, "failed")


def test_a_permanently_refused_renewal_is_retried_once_a_day(world, account, credential):
    certificate, _ = world.create(account, credential)
    world.deliver()
    world.advance(certificate_half_life(certificate))
    world.ca.problems["new_order"] = [Refused("ca_rejected_identifier", "No.", permanent=True)]
    Certificate.objects.update(renew_at=world.time)
    renewals.scan_renewals.run()
    world.sweep()
    certificate.refresh_from_db()
    assert timedelta(hours=20) < certificate.renew_at - world.time < timedelta(hours=27)


def certificate_half_life(certificate) -> float:
    certificate.refresh_from_db()
    return (certificate.expires_at - certificate.created_at).total_seconds() / 2


def test_a_failed_attempt_is_followed_by_the_next_scan(world, account, credential):
    world.ca.problems["finalize"] = [REFUSED]
    certificate, _ = world.create(account, credential)
    world.deliver()
    world.settle()
    world.advance(2 * 3600)
    renewals.scan_renewals.run()
    world.sweep()
    certificate.refresh_from_db()
    assert certificate.status == "active"
    assert only().number == 2


def test_a_wait_over_six_hours_ends_the_attempt_and_is_retried_then(world, account, credential):
    world.ca.problems["new_order"] = [Trouble("ca_rate_limited", "Too many.", retry_after=8 * 3600)]
    certificate, _ = world.create(account, credential)
    world.deliver()
    certificate.refresh_from_db()
    assert only().state == State.FAILED
    assert (
        timedelta(0)
        <= certificate.renew_at - (world.time + timedelta(hours=8))
        <= timedelta(minutes=5)
    )


def test_a_shorter_wait_of_the_cas_moves_the_deadline(world, account, credential):
    world.ca.problems["new_order"] = [Trouble("ca_rate_limited", "Too many.", retry_after=3 * 3600)]
    _, issuance = world.create(account, credential)
    world.deliver()
    own = timedelta(seconds=RETRIES[0])
    pause = only().wake_at - world.time
    assert timedelta(hours=3) <= pause <= 1.25 * timedelta(hours=3)
    assert only().deadline_at == issuance.deadline_at + pause - own


def pending(world, account, credential, monkeypatch, count: int, retry_after: float) -> None:
    """Let the CA validate nothing, and ask to come back after `retry_after` seconds."""
    read_order = ca.FakeClient.read_order

    def read(client, url):
        resource = read_order(client, url)
        return dataclasses.replace(resource, status="pending", retry_after=retry_after)

    for number in range(count):
        world.create(account, credential, f"host{number}.example.com")
    monkeypatch.setattr(ca.FakeClient, "read_order", read)
    world.deliver()


@pytest.mark.parametrize("retry_after", [1, 20])
def test_a_short_wait_of_the_cas_does_not_move_the_deadline(
    world, account, credential, monkeypatch, retry_after
):
    pending(world, account, credential, monkeypatch, 1, retry_after=retry_after)
    while Issuance.objects.open().exists():
        world.advance(1)
        world.sweep()
    assert only().error_code == "validate_timed_out"
    assert world.outside.calls.count("ca.read_order") <= 100
    assert only().ended_at - only().created_at <= timedelta(minutes=32)


def test_those_that_a_ca_asks_back_come_spread(world, account, credential, monkeypatch):
    pending(world, account, credential, monkeypatch, 100, retry_after=120)
    wakes = Issuance.objects.open().values_list("wake_at", flat=True)
    pauses = sorted((at - world.time).total_seconds() for at in wakes)
    assert 120 <= pauses[0] <= 121
    assert 149 <= pauses[-1] <= 150
    assert max(later - pause for pause, later in pairwise(pauses)) < 1


def test_a_record_never_shown_ends_the_attempt_at_the_credentials_timeout(world, account, owner):
    world.zone.hides = True
    credential = world.credential(owner, propagation_timeout=300)
    world.create(account, credential)
    world.deliver()
    for _ in range(20):
        world.advance(30)
        world.sweep()
    assert only().state == State.FAILED
    assert only().error_code == "propagate_timed_out"
    assert "example.com" in only().error_what
    world.settle()
    assert world.zone.txt() == []


def test_a_settling_longer_than_the_credentials_time_is_waited_for(world, account, owner):
    certificate, _ = world.create(
        account, world.credential(owner, settle=3600, propagation_timeout=1800)
    )
    world.deliver()
    world.advance(2000)
    services.issue(certificate)  # has it looked at once more
    world.sweep()
    assert only().is_open
    world.advance(1601)
    world.sweep()
    assert only().state == State.ISSUED


def test_an_outage_of_this_server_fails_no_attempt(world, account, credential):
    world.zone.hides = True
    world.create(account, credential)
    world.deliver()
    world.advance(24 * 3600)
    world.zone.hides = False
    world.sweep()
    assert only().state == State.ISSUED


def test_a_record_that_no_server_shows_is_republished_three_times_at_most(
    world, account, credential, owner
):
    world.zone.hides = True
    credential = world.credential(owner, propagation_timeout=7200)
    world.create(account, credential)
    world.deliver()
    for _ in range(230):
        world.advance(30)
        world.sweep()
    assert world.outside.calls.count("zone.present") == 2 + 2 * 3


def test_a_wait_whose_sentence_stays_the_same_writes_one_event(world, account, credential):
    world.zone.hides = True
    world.create(account, credential)
    world.deliver()
    for _ in range(5):
        world.advance(10)
        world.sweep()
    assert only().events.filter(step="propagate", outcome="wait").count() == 1


def test_a_credential_that_is_refused_leaves_no_intent(world, account, credential):
    world.zone.refuses = [ProviderError("dns_credential_refused", "Refused.", permanent=True)]
    world.create(account, credential)
    world.deliver()
    assert only().state == State.FAILED
    world.settle()
    assert not TxtRecord.objects.in_the_zone().exists()


def test_a_cleanup_that_fails_is_tried_again_until_it_is_done(world, account, credential):
    world.create(account, credential)
    world.deliver()
    world.zone.refuses = [ProviderError("dns_unreachable", "No answer.")] * 3
    world.sweep()
    assert TxtRecord.objects.filter(left_behind="No answer.").count() == 2
    world.settle(most=5, step=60)
    assert world.zone.txt() == []
    assert not TxtRecord.objects.exclude(left_behind="").exists()


def test_an_internal_error_is_reported_and_retried(world, account, credential, monkeypatch):
    world.ca.problems["new_order"] = [RuntimeError("secret detail")]
    world.create(account, credential)
    world.deliver()
    assert only().is_open
    assert "secret detail" not in only().waits_for
    world.advance(10)
    world.sweep()
    assert only().state == State.ISSUED


def fails_once(monkeypatch, name: str) -> None:
    real = getattr(machine, name)
    errors = [OperationalError("deadlock detected")]

    def fail(*args, **kwargs):
        if errors:
            raise errors.pop()
        return real(*args, **kwargs)

    monkeypatch.setattr(machine, name, fail)


def test_a_database_error_at_the_end_of_a_step_is_tried_again_by_the_table(
    world, account, credential, monkeypatch
):
    fails_once(monkeypatch, "deadline")
    world.create(account, credential)
    world.deliver()
    assert (only().holder, only().stumbles) == ("", 1)
    world.advance(10)
    world.sweep()
    assert only().state == State.ISSUED


def test_a_database_error_while_failing_is_retried_by_the_retry_table(
    world, account, credential, monkeypatch
):
    fails_once(monkeypatch, "_last_columns")
    world.ca.problems["new_order"] = [REFUSED, REFUSED]
    world.create(account, credential)
    world.deliver()
    assert (only().state, only().holder, only().stumbles) == (State.QUEUED, "", 1)
    assert only().wake_at == world.time + timedelta(seconds=10)
    world.advance(10)
    world.sweep()
    assert (only().state, only().error_code) == (State.FAILED, "ca_caa")


def test_an_order_that_is_not_ready_is_looked_at_again(world, account, credential):
    world.ca.problems["finalize"] = [Wait(2, "The order is not ready.")]
    world.create(account, credential)
    world.deliver()
    assert only().state == State.VALIDATED
    world.advance(2)
    world.sweep()
    assert only().state == State.ISSUED


def test_an_account_that_the_ca_forgot_registers_once_more(world, account, credential):
    AcmeAccount.objects.update(created_at=world.time - timedelta(hours=1))
    world.ca.problems["new_order"] = [Trouble("ca_account_unknown", "No such account.")]
    world.create(account, credential)
    world.deliver()
    world.sweep()
    world.advance(10)
    world.sweep()
    account.refresh_from_db()
    assert world.outside.calls.count("ca.register") == 1
    assert account.status == "valid"
    assert only().state == State.ISSUED


def test_an_order_that_became_valid_after_a_failure_is_taken_over(world, account, credential):
    world.ca.processing_reads = 10**6
    _, first = world.create(account, credential)
    world.deliver()
    Issuance.objects.update(deadline_at=world.time)
    world.advance(60)
    world.sweep()
    assert only().state == State.FAILED
    for order in world.ca.orders.values():
        order.reads_left = 0
    Certificate.objects.update(renew_at=world.time)
    renewals.scan_renewals.run()
    world.sweep()
    assert only().pk != first.pk
    assert only().state == State.ISSUED
    assert len(world.ca.orders) == 1


def next_attempt(world, certificate) -> None:
    world.settle()
    certificate.refresh_from_db()
    world.advance((certificate.renew_at - world.time).total_seconds() + 1)
    renewals.scan_renewals.run()
    world.settle()


def test_a_bad_certificate_of_one_order_does_not_poison_the_next_attempt(
    world, account, credential, monkeypatch
):
    sign = ca.sign
    signed = []

    def sign_badly_once(csr_pem, life):
        chain = sign(csr_pem, life)
        signed.append(csr_pem)
        leaf = chain.split("-----END CERTIFICATE-----\n")[0] + "-----END CERTIFICATE-----\n"
        return leaf + leaf if len(signed) == 1 else chain

    monkeypatch.setattr(ca, "sign", sign_badly_once)
    certificate, first = world.create(account, credential)
    world.deliver()
    first.refresh_from_db()
    assert first.error_code == "ca_bad_certificate"
    next_attempt(world, certificate)
    assert (only().number, only().state) == (2, State.ISSUED)


def test_an_order_whose_certificate_is_gone_is_not_taken_over(world, account, credential):
    world.ca.problems["download"] = [
        Refused("ca_not_found", "The CA refused the certificate (HTTP 404).")
    ] * 2
    certificate, _ = world.create(account, credential)
    world.deliver()
    next_attempt(world, certificate)
    assert (only().number, len(world.ca.orders)) == (2, 2)


@pytest.mark.parametrize(
    "change",
    [{"key_size": 384}, {"key_type": "rsa", "key_size": 2048}, {"organization": "Example"}],
)
def test_an_order_for_a_key_that_is_not_wanted_any_more_is_not_taken_over(
    world, account, credential, change
):
    world.ca.problems["download"] = [REFUSED]
    certificate, _ = world.create(account, credential)
    world.deliver()
    certificate.refresh_from_db()
    services.update_certificate(certificate, change)
    next_attempt(world, certificate)
    assert (only().number, only().state, len(world.ca.orders)) == (2, State.ISSUED, 2)
    key = pki.load_chain(CertificateVersion.objects.get().chain_pem)[0].public_key()
    assert key.key_size == change.get("key_size", 256)


def test_an_attempt_whose_end_cannot_be_written_ends_at_its_deadline(
    world, account, credential, monkeypatch
):
    """PostgreSQL refuses a sentence that it cannot store."""
    world.ca.problems["new_order"] = [Trouble("ca_error", "unwritable")] * 1000
    write = workflow.event

    def refuse(issuance, step, outcome, what, took=0.0):
        if what == "unwritable":
            raise DataError
        write(issuance, step, outcome, what, took)

    monkeypatch.setattr(machine, "event", refuse)
    _, issuance = world.create(account, credential)
    world.deliver()
    world.settle(40, step=1800)
    issuance.refresh_from_db()
    assert (issuance.state, issuance.error_what) == (
        Issuance.State.FAILED,
        workflow.UNWRITABLE.what,
    )
    assert issuance.events.last().what == workflow.UNWRITABLE.what
