"""With `reuse_key` renewals keep the key, while it fits and is not compromised."""

import pytest

from accounts.models import AuditEvent
from authorities import pki
from certctrl.turns import LostTurn
from issuance import services
from issuance.models import Certificate, CertificateVersion, Issuance
from issuance.workflow import csr
from keystore import envelope
from keystore.models import Envelope
from tests.issuance.failing import CAA, fail, issued, last, read, try_again

pytestmark = pytest.mark.django_db
State = Issuance.State


@pytest.fixture
def pinned(world, account, credential) -> Certificate:
    return issued(world, account, credential, reuse_key=True)


def renew(world, certificate: Certificate) -> CertificateVersion:
    services.issue(read(certificate))
    world.deliver()
    assert last().state == State.ISSUED
    return read(certificate).current


def keys() -> list[bytes]:
    return [envelope.unseal(each.key) for each in CertificateVersion.objects.order_by("pk")]


def told() -> str:
    return last().events.filter(step="order").order_by("pk").first().what


def test_a_renewal_keeps_the_key_in_an_envelope_of_its_own(world, pinned):
    version = renew(world, pinned)
    first, second = keys()
    assert first == second
    assert version.key != pinned.current.key
    assert pki.same_key(version.chain_pem, pinned.current.chain_pem)
    assert told() == "The certificate keeps its key (reuse_key)."


def test_without_it_a_renewal_makes_a_new_key(world, account, credential):
    renew(world, issued(world, account, credential))
    assert len(set(keys())) == 2


def test_the_opening_is_audited(world, pinned):
    renew(world, pinned)
    opened = AuditEvent.objects.get(action="key.opened")
    assert (opened.owner, opened.actor, opened.object) == (
        pinned.owner,
        "this server",
        str(pinned.current.key),
    )
    assert "example.com" in opened.detail["what"]


def test_it_is_sealed_under_the_policy_of_now(world, pinned):
    services.update_certificate(read(pinned), {"key_policy": "MASTER_ONLY"})
    assert renew(world, pinned).key.policy == "MASTER_ONLY"
    assert len(set(keys())) == 1


@pytest.mark.parametrize("kind", [{"key_size": 384}, {"key_type": "rsa", "key_size": 2048}])
def test_another_type_or_size_gets_a_new_key_and_the_event_says_so(world, pinned, kind):
    services.update_certificate(read(pinned), kind)
    renew(world, pinned)
    assert len(set(keys())) == 2
    assert "key type or size was changed" in told()
    renew(world, pinned)
    assert len(set(keys())) == 2, "the new one is kept from now on"


def test_a_key_that_the_server_cannot_open_is_replaced_with_an_event(world, pinned):
    pinned.current.key.wraps.all().delete()
    version = renew(world, pinned)
    assert not pki.same_key(version.chain_pem, pinned.current.chain_pem)
    assert "cannot be opened" in told()
    assert not AuditEvent.objects.filter(action="key.opened").exists()


@pytest.mark.parametrize("is_done", [False, True])
def test_a_key_that_is_in_other_hands_is_never_used_again(world, pinned, is_done):
    services.revoke(read(pinned), "keyCompromise")
    if is_done:
        world.deliver()
    renew(world, pinned)
    assert len(set(keys())) == 2
    assert "keyCompromise" in told()


def test_a_certificate_that_was_revoked_for_another_reason_keeps_its_key(world, pinned):
    services.revoke(read(pinned), "superseded")
    renew(world, pinned)
    assert len(set(keys())) == 1


def test_a_key_that_an_older_version_was_revoked_for_is_not_used_either(world, pinned):
    renew(world, pinned)
    CertificateVersion.objects.filter(pk=pinned.current.pk).update(revoke_reason=1)
    renew(world, pinned)
    first, second, third = keys()
    assert first == second != third


def test_a_key_compromised_while_waiting_for_the_zone_is_not_sent(world, pinned):
    world.zone.hides = True
    services.issue(read(pinned))
    world.deliver()
    sealed = last().key_id
    services.revoke(read(pinned), "keyCompromise")
    world.zone.hides = False
    world.advance(60)
    world.sweep()
    assert last().state == State.ISSUED
    assert len(set(keys())) == 2
    assert not Envelope.objects.filter(pk=sealed).exists(), (
        "the key that was to be used is destroyed"
    )
    assert pki.same_key(last().csr_pem, read(pinned).current.chain_pem)


def test_an_earlier_order_with_such_a_key_is_not_taken_over(world, pinned):
    world.ca.processing_reads = 10**6
    services.issue(read(pinned))
    world.deliver()
    Issuance.objects.update(deadline_at=world.time)
    world.advance(60)
    world.sweep()
    assert last().state == State.FAILED
    for order in world.ca.orders.values():
        order.reads_left = 0
    world.ca.processing_reads = 0
    services.revoke(read(pinned), "keyCompromise")
    renew(world, pinned)
    assert len(set(keys())) == 2


def test_a_proof_at_staging_has_a_key_of_its_own(world, pinned, account, owner):
    staging = world.account(owner, name="sandbox", ca_provider="letsencrypt_staging")
    account.staging_first = True
    account.staging_account = staging
    account.save()
    fail(world, 3, CAA)
    opened = AuditEvent.objects.count()
    proof = try_again(world)
    assert proof.proves
    assert not pki.same_key(proof.csr_pem, pinned.current.chain_pem)
    assert AuditEvent.objects.count() == opened
    assert pki.same_key(try_again(world).csr_pem, pinned.current.chain_pem)


# --- an order of an earlier attempt that became valid late ---


def given_up(world, certificate: Certificate) -> None:
    """Let a renewal give up after its CSR was sent. Its order becomes valid afterwards."""
    world.ca.processing_reads = 10**6
    services.issue(read(certificate))
    world.deliver()
    Issuance.objects.open().update(deadline_at=world.time)
    world.advance(60)
    world.sweep()
    assert last().state == State.FAILED
    world.ca.processing_reads = 0
    for order in world.ca.orders.values():
        order.reads_left = 0


def test_an_order_with_another_key_is_not_taken_over(world, account, credential):
    certificate = issued(world, account, credential)
    given_up(world, certificate)
    services.update_certificate(read(certificate), {"reuse_key": True})
    renew(world, certificate)
    assert len(set(keys())) == 1


def test_an_order_with_the_kept_key_is_taken_over(world, pinned):
    given_up(world, pinned)
    orders = len(world.ca.orders)
    renew(world, pinned)
    assert len(set(keys())) == 1
    assert len(world.ca.orders) == orders


def test_an_order_with_the_old_key_is_not_taken_over_without_reuse_key(world, pinned):
    given_up(world, pinned)
    services.update_certificate(read(pinned), {"reuse_key": False})
    renew(world, pinned)
    assert len(set(keys())) == 2


# --- a change of the key policy during an attempt ---


def test_the_key_of_an_open_attempt_gets_the_new_policy(world, account, credential):
    world.zone.hides = True
    certificate, issuance = world.create(account, credential)
    world.deliver()
    issuance.refresh_from_db()
    assert issuance.key.policy == "HYBRID"
    services.update_certificate(read(certificate), {"key_policy": "MASTER_ONLY"})
    world.zone.hides = False
    world.settle()
    assert read(certificate).current.key.policy == "MASTER_ONLY"


def test_a_turn_that_has_no_key_yet_is_lost_when_the_policy_changes(world, account, credential):
    certificate, issuance = world.create(account, credential)
    turn = Issuance.objects.claim(issuance.pk)
    services.update_certificate(read(certificate), {"key_policy": "MASTER_ONLY"})
    with pytest.raises(LostTurn):
        csr.make(turn)
    world.sweep()
    world.settle()
    assert read(certificate).current.key.policy == "MASTER_ONLY"
