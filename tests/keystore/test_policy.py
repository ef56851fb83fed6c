"""The recipients of a certificate's key, for each policy."""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: TID251, as a machine opens it
from django.db import transaction
from nacl.public import PrivateKey, SealedBox  # noqa: TID251

from certctrl.errors import Conflict, Invalid
from keystore import masterkeys
from keystore.envelope import (
    CannotOpen,
    parts,
    remove_wraps,
    rewrite_recipients,
    seal,
    unseal,
)
from keystore.models import Envelope
from keystore.recipients import retire
from tests.keystore.conftest import public_key_of

SECRET = b"correct horse battery staple"

pytestmark = pytest.mark.django_db


@pytest.fixture
def machine() -> PrivateKey:
    return PrivateKey.generate()


@pytest.fixture
def device(alice, machine):
    return public_key_of(alice, bytes(machine.public_key))


@pytest.fixture
def other_device(alice):
    return public_key_of(alice, bytes(PrivateKey.generate().public_key))


def recipients_of(envelope: Envelope) -> set[object]:
    return {wrap.recipient_key or f"master {wrap.master_key_id}" for wrap in envelope.wraps.all()}


def opened_by(machine: PrivateKey, envelope: Envelope, device) -> bytes:
    """Open an envelope as a device does."""
    wrapped = bytes(envelope.wraps.get(recipient_key=device).wrapped_dek)
    assert len(wrapped) == 80
    nonce, ciphertext, tag = parts(envelope)
    return AESGCM(SealedBox(machine).decrypt(wrapped)).decrypt(nonce, ciphertext + tag, None)


def test_master_only_has_no_device_wrap(alice, device):
    envelope = seal(alice, "certificate_key", SECRET, public_keys=[device])
    assert recipients_of(envelope) == {"master 1"}


def test_hybrid_opens_on_the_server_and_on_each_machine(alice, machine, device, other_device):
    envelope = seal(
        alice, "certificate_key", SECRET, policy="HYBRID", public_keys=[device, other_device]
    )

    assert recipients_of(envelope) == {"master 1", device, other_device}
    assert unseal(envelope) == opened_by(machine, envelope, device) == SECRET


def test_hybrid_without_a_device_is_fine(alice):
    assert recipients_of(seal(alice, "certificate_key", SECRET, policy="HYBRID")) == {"master 1"}


def test_device_required_has_no_master_wrap_and_the_server_cannot_open_it(alice, machine, device):
    envelope = seal(
        alice, "certificate_key", SECRET, policy="DEVICE_REQUIRED", public_keys=[device]
    )

    assert recipients_of(envelope) == {device}
    assert opened_by(machine, envelope, device) == SECRET
    with pytest.raises(CannotOpen, match="wrapped for devices only"):
        unseal(envelope)


def test_device_required_without_a_device_is_refused_and_stores_nothing(alice):
    with pytest.raises(Conflict, match="Assign a device first"):
        seal(alice, "certificate_key", SECRET, policy="DEVICE_REQUIRED")
    assert not Envelope.objects.exists()


def test_a_retired_key_is_wrapped_for_no_more(alice, device, other_device):
    device.retired_at = device.created_at
    envelope = seal(
        alice, "certificate_key", SECRET, policy="HYBRID", public_keys=[device, other_device]
    )
    assert recipients_of(envelope) == {"master 1", other_device}

    with pytest.raises(Conflict):
        seal(alice, "certificate_key", SECRET, policy="DEVICE_REQUIRED", public_keys=[device])


def test_a_key_named_twice_is_wrapped_for_once(alice, device):
    envelope = seal(alice, "certificate_key", SECRET, policy="HYBRID", public_keys=[device, device])
    assert envelope.wraps.count() == 2


def test_nothing_is_wrapped_for_another_owners_device(alice, bob):
    bobs = public_key_of(bob, bytes(PrivateKey.generate().public_key))
    with pytest.raises(ValueError, match="another owner's device"):
        seal(alice, "certificate_key", SECRET, policy="HYBRID", public_keys=[bobs])
    assert not Envelope.objects.exists()


@pytest.mark.parametrize("policy", ["HYBRID", "DEVICE_REQUIRED"])
def test_secrets_that_the_server_itself_uses_are_always_master_only(alice, device, policy):
    with pytest.raises(ValueError, match="its policy must be MASTER_ONLY"):
        seal(alice, "account_key", SECRET, policy=policy, public_keys=[device])


def test_a_public_key_that_opens_to_everybody_is_refused(alice):
    useless = public_key_of(alice, bytes(32))
    with pytest.raises(Invalid, match="Enrol the device again"), transaction.atomic():
        seal(alice, "certificate_key", SECRET, policy="HYBRID", public_keys=[useless])
    assert not Envelope.objects.exists()


def test_a_new_device_under_hybrid_opens_what_was_sealed_before(alice, machine, device):
    envelope = seal(alice, "certificate_key", SECRET, policy="HYBRID")
    rewrite_recipients(envelope, [device])

    assert recipients_of(envelope) == {"master 1", device}
    assert opened_by(machine, envelope, device) == unseal(envelope) == SECRET


def test_a_device_that_leaves_loses_its_wrap_and_the_others_keep_theirs(
    alice, device, other_device
):
    envelope = seal(
        alice, "certificate_key", SECRET, policy="HYBRID", public_keys=[device, other_device]
    )
    before = envelope.wraps.get(recipient_key=other_device).wrapped_dek
    rewrite_recipients(envelope, [other_device])

    assert recipients_of(envelope) == {"master 1", other_device}
    assert envelope.wraps.get(recipient_key=other_device).wrapped_dek == before


def test_going_to_device_required_drops_the_master_wrap(alice, machine, device):
    envelope = seal(alice, "certificate_key", SECRET, policy="HYBRID")
    rewrite_recipients(envelope, [device], policy="DEVICE_REQUIRED")

    assert recipients_of(envelope) == {device}
    assert Envelope.objects.get(pk=envelope.pk).policy == envelope.policy == "DEVICE_REQUIRED"
    assert opened_by(machine, envelope, device) == SECRET


def test_the_server_cannot_add_a_device_to_what_it_cannot_open(alice, device, other_device):
    envelope = seal(
        alice, "certificate_key", SECRET, policy="DEVICE_REQUIRED", public_keys=[device]
    )
    with pytest.raises(CannotOpen):
        rewrite_recipients(envelope, [device, other_device])
    assert recipients_of(envelope) == {device}


def test_the_server_cannot_give_itself_back_what_only_devices_open(alice, device):
    envelope = seal(
        alice, "certificate_key", SECRET, policy="DEVICE_REQUIRED", public_keys=[device]
    )
    with pytest.raises(CannotOpen):
        rewrite_recipients(envelope, [device], policy="HYBRID")
    assert Envelope.objects.get(pk=envelope.pk).policy == "DEVICE_REQUIRED"


def test_the_last_device_of_device_required_cannot_be_removed(alice, device):
    envelope = seal(
        alice, "certificate_key", SECRET, policy="DEVICE_REQUIRED", public_keys=[device]
    )
    with pytest.raises(Conflict):
        rewrite_recipients(envelope, [])
    assert recipients_of(envelope) == {device}


def test_wraps_are_removed_without_opening_anything(alice, device, other_device, monkeypatch):
    sealed = [
        seal(alice, "certificate_key", SECRET, policy="HYBRID", public_keys=[device, other_device])
        for _ in range(2)
    ]
    monkeypatch.setattr(masterkeys, "by_id", None)
    remove_wraps(sealed[:1], keep=[device.pk])
    assert recipients_of(sealed[0]) == {"master 1", device}
    remove_wraps(sealed[:1], keep=[device.pk], master=True)
    assert recipients_of(sealed[0]) == {device}
    assert recipients_of(sealed[1]) == {"master 1", device, other_device}


def test_a_retired_key_loses_its_wraps(alice, device, other_device):
    envelope = seal(
        alice, "certificate_key", SECRET, policy="HYBRID", public_keys=[device, other_device]
    )
    retire(device)
    assert recipients_of(envelope) == {"master 1", other_device}
    device.refresh_from_db()
    assert device.retired_at
