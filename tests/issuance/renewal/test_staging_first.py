"""After three consecutive failures an attempt is first proved at the CA's staging."""

from dataclasses import replace

import pytest

from authorities.models import AcmeAccount
from certctrl import turns
from certctrl.turns import Trouble
from dnsclient import survey
from dnsclient.survey import CaaPolicy, CAARecord
from issuance import models, services
from issuance.beat import pruning, renewals
from issuance.models import Certificate, CertificateVersion, Issuance
from keystore.models import Envelope
from tests.fakes.outside import Died
from tests.issuance.failing import CAA, FOR_GOOD, fail, issued, last, limit, read, try_again

pytestmark = pytest.mark.django_db
State = Issuance.State


@pytest.fixture
def staging(world, owner) -> AcmeAccount:
    return world.account(owner, name="sandbox", ca_provider="letsencrypt_staging")


@pytest.fixture
def account(world, owner, staging) -> AcmeAccount:
    return world.account(
        owner, name="main", ca_provider="letsencrypt", staging_first=True, staging_account=staging
    )


def orders(world) -> tuple[int, int]:
    """Return the numbers of orders at production and at staging."""
    calls = world.outside.calls
    return calls.count("ca.new_order"), calls.count("staging.new_order")


def told(attempt: Issuance) -> str:
    return " ".join(attempt.events.order_by("pk").values_list("what", flat=True))


def test_the_attempt_after_three_failures_is_made_at_staging(world, account, credential, staging):
    certificate = issued(world, account, credential)
    fail(world, 3)
    assert orders(world) == (4, 0)
    proof = try_again(world)
    assert (proof.state, proof.proves, proof.account) == (State.ISSUED, True, staging)
    assert proof.names_key == models.names_key(staging, certificate.names)
    assert orders(world) == (4, 1)


def test_two_failures_are_no_reason(world, account, credential):
    issued(world, account, credential)
    fail(world, 2)
    assert not try_again(world).proves


def test_an_account_that_did_not_ask_for_it_is_not_proved(world, account, credential):
    AcmeAccount.objects.update(staging_first=False)
    issued(world, account, credential)
    fail(world, 3)
    assert not try_again(world).proves


def test_a_proof_stores_nothing_but_that_it_succeeded(world, account, credential):
    before = issued(world, account, credential)
    fail(world, 3)
    proof = try_again(world)
    after = read(before)
    assert (after.proved_at, after.renew_at) == (world.time, world.time)
    assert (after.current, after.expires_at, after.failures) == (
        before.current,
        before.expires_at,
        3,
    )
    assert CertificateVersion.objects.count() == 1
    assert not hasattr(proof, "version")
    world.settle()
    assert world.zone.txt() == []


def test_production_is_next_after_a_proof_and_success_ends_it_all(world, account, credential):
    certificate = issued(world, account, credential)
    fail(world, 3)
    try_again(world)
    attempt = try_again(world)
    certificate = read(certificate)
    assert (attempt.proves, attempt.account, attempt.state) == (False, account, State.ISSUED)
    assert certificate.current.issuance == attempt
    assert (certificate.failures, certificate.failing_since, certificate.proved_at) == (
        0,
        None,
        None,
    )
    fail(world, 1)
    assert not try_again(world).proves


def test_a_proof_that_fails_counts_and_leaves_production_alone(world, account, credential):
    certificate = issued(world, account, credential)
    fail(world, 3)
    for failures in (4, 5, 6):
        assert fail(world, 1).proves
        assert read(certificate).failures == failures
    assert orders(world) == (4, 3)


def test_a_failure_of_production_after_a_proof_is_proved_again(world, account, credential):
    certificate = issued(world, account, credential)
    fail(world, 3)
    try_again(world)
    assert not fail(world, 1).proves
    assert read(certificate).proved_at is None
    assert try_again(world).proves


def test_a_limit_of_production_after_a_proof_only_puts_it_off(world, account, credential):
    certificate = issued(world, account, credential)
    fail(world, 3)
    try_again(world)
    try_again(world, limit(8))
    assert read(certificate).proved_at
    assert not try_again(world).proves


def test_a_certificate_refused_for_good_is_not_proved_at_staging(world, account, credential):
    issued(world, account, credential)
    fail(world, 2)
    fail(world, 1, FOR_GOOD)
    fail(world, 3, limit(8))
    assert not try_again(world, CAA).proves


def test_waits_for_a_limit_are_none_of_the_three(world, account, credential):
    issued(world, account, credential)
    fail(world, 2)
    fail(world, 3, limit(8))
    assert not fail(world, 1).proves
    assert try_again(world).proves


def test_a_first_issuance_is_proved_too(world, account, credential):
    world.ca.problems["new_order"] = [CAA]
    certificate, _ = world.create(account, credential)
    world.deliver()
    fail(world, 2)
    assert try_again(world).proves
    assert (read(certificate).current, read(certificate).status) == (None, "pending")
    try_again(world)
    assert read(certificate).status == "active"


def test_a_refusal_by_staging_does_not_end_a_first_issuance(world, account, credential):
    world.ca.problems["new_order"] = [CAA]
    certificate, _ = world.create(account, credential)
    world.deliver()
    fail(world, 2)
    assert fail(world, 1, FOR_GOOD).failure == "permanent"
    assert read(certificate).renew_at


@pytest.mark.parametrize("status", ["refused", "deactivated"])
def test_a_staging_account_that_is_of_no_use_is_passed_over(
    world, account, credential, staging, status
):
    issued(world, account, credential)
    fail(world, 3)
    AcmeAccount.objects.filter(pk=staging.pk).update(status=status)
    assert not try_again(world).proves


def test_on_its_last_day_a_certificate_is_ordered_at_once(world, account, credential):
    """Staging may be down for longer than the certificate lives."""
    certificate = issued(world, account, credential)
    fail(world, 3)
    Certificate.objects.update(renew_at=certificate.expires_at - turns.A_DAY * 0.9)
    assert not try_again(world).proves


def test_a_person_who_renews_goes_straight_to_production(world, account, credential):
    certificate = issued(world, account, credential)
    fail(world, 4)
    world.ca.problems.clear()
    attempt = services.issue(read(certificate))
    world.deliver()
    assert (last(), last().proves, last().state) == (attempt, False, State.ISSUED)


def test_a_person_who_asks_for_the_same_again_goes_straight_to_production(
    world, account, credential
):
    world.ca.problems["new_order"] = [CAA]
    world.create(account, credential)
    world.deliver()
    fail(world, 3)
    world.ca.problems.clear()
    world.create(account, credential)
    world.deliver()
    assert (last().proves, last().state) == (False, State.ISSUED)


def test_the_events_say_that_it_is_a_proof(world, account, credential):
    issued(world, account, credential)
    fail(world, 3)
    proof = try_again(world)
    assert "failed 3 times in a row" in told(proof)
    assert "sandbox" in told(proof)
    assert "discarded" in told(proof)
    assert "main is tried again" in told(try_again(world))


def test_it_says_so_before_staging_is_asked_and_only_once(world, account, credential):
    issued(world, account, credential)
    fail(world, 3)
    proof = try_again(world, *[Trouble("ca_unreachable", "No answer.")] * 2)
    world.advance(60)
    world.sweep()
    assert list(proof.events.order_by("pk").values_list("step", "outcome")) == [
        ("choose", "done"),
        ("order", "retry"),
        ("order", "retry"),
    ]


def test_the_key_of_a_proof_is_destroyed_and_no_other(world, account, credential):
    certificate = issued(world, account, credential)
    fail(world, 3)
    proof = try_again(world)
    pruning.prune.run()
    assert not Envelope.objects.filter(pk=proof.key_id).exists()
    assert Issuance.objects.get(pk=proof.pk).key is None
    assert Envelope.objects.filter(pk=certificate.current.key_id).exists()


def test_a_deleted_certificate_is_not_ordered_after_its_proof(world, account, credential):
    world.staging.processing_reads = 3
    certificate = issued(world, account, credential)
    fail(world, 3)
    try_again(world)
    services.retire(read(certificate))
    world.settle(step=60)
    assert last().state == State.ISSUED
    assert read(certificate).renew_at is None


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_death_anywhere_in_a_proof_changes_nothing(world, account, credential, settings, moment):
    """Each run dies at another outside call of one proof."""
    certificate = issued(world, account, credential, "example.com")
    fail(world, 3)
    world.staging.problems.clear()
    for index in range(100):
        Certificate.objects.update(renew_at=world.time, proved_at=None)
        renewals.scan_renewals.run()
        made = len(world.outside.calls)
        world.outside.die_at = (made + index, moment)
        died = _to_the_end(world, settings.LEASE)
        assert (last().state, last().proves) == (State.ISSUED, True)
        assert (read(certificate).proved_at is not None, world.zone.txt()) == (True, [])
        assert CertificateVersion.objects.count() == 1
        if not died:
            break
    assert index > 8, "an undisturbed proof makes so many calls"


def _to_the_end(world, lease: float) -> bool:
    died = False
    for _ in range(10):
        try:
            world.sweep()
        except Died:
            died = True
            world.messages.clear()
        if world.is_quiet():
            break
        world.advance(lease)
    world.outside.die_at = None
    return died


def test_production_is_next_when_caa_lets_only_its_account_issue(
    world, owner, credential, monkeypatch
):
    sandbox = world.account(
        owner, ca_provider="letsencrypt_staging", url="https://staging.test/acct/9"
    )
    account = world.account(
        owner,
        ca_provider="letsencrypt",
        staging_first=True,
        staging_account=sandbox,
        url="https://ca.test/acct/1",
    )
    issued(world, account, credential, "example.com")
    fail(world, 3)
    records = (CAARecord(0, "issue", "ca.test; accounturi=https://ca.test/acct/1"),)
    seen = survey.survey

    def with_caa(names, seconds):
        return replace(
            seen(names, seconds),
            policies={name: CaaPolicy("example.com", records) for name in names},
        )

    monkeypatch.setattr(survey, "survey", with_caa)
    proof = try_again(world)
    attempt = try_again(world)
    assert (proof.proves, proof.error_code) == (True, "preflight_caa_account")
    assert (attempt.proves, attempt.state) == (False, State.ISSUED)
