"""The byte formats do not change, so old envelopes still open, here and on devices."""

import base64
import json
import os
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: TID251, as a machine opens it
from nacl.public import PrivateKey, SealedBox  # noqa: TID251

from accounts.models import User
from keystore import recipients
from keystore.envelope import parts, seal, unseal
from keystore.masterkeys.aes import AESKey
from keystore.models import Envelope, KeyWrap
from keystore.recipients import MasterKey
from tests.keystore.conftest import public_key_of

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())


def vector(name: str) -> dict:
    def value(key: str, text: object) -> object:
        plain = key in ("uuid", "purpose", "owner", "context", "master_key_id")
        return text if plain else bytes.fromhex(str(text))

    return {key: value(key, text) for key, text in VECTORS[name].items()}


@pytest.fixture
def fixed_randomness(monkeypatch):
    """Seal with the data key and the nonce of the vectors."""
    known = vector("certificate_key")
    monkeypatch.setattr("keystore.envelope.AESGCM.generate_key", lambda bits: known["data_key"])
    urandom = os.urandom
    monkeypatch.setattr(os, "urandom", lambda size: known["nonce"] if size == 12 else urandom(size))
    return known


@pytest.mark.django_db
def test_a_certificate_key_seals_to_the_known_nonce_ciphertext_and_tag(alice, fixed_randomness):
    known = fixed_randomness
    envelope = seal(alice, "certificate_key", known["plaintext"])
    assert parts(envelope) == (known["nonce"], known["ciphertext"], known["tag"])


def test_an_envelope_is_bound_by_the_known_context():
    known = vector("envelope")
    envelope = Envelope(uuid=UUID(known["uuid"]), purpose=known["purpose"], owner_id=known["owner"])

    assert envelope.context().decode() == known["context"]
    opened = AESGCM(known["data_key"]).decrypt(
        known["nonce"], known["ciphertext_and_tag"], envelope.context()
    )
    assert opened == known["plaintext"]


@pytest.mark.django_db
def test_a_stored_envelope_of_the_vectors_opens(settings):
    known = vector("envelope")
    wrap = vector("master_wrap")
    settings.MASTER_KEYS = (
        f"{wrap['master_key_id']}:{base64.b64encode(wrap['master_key']).decode()}"
    )
    owner = User.objects.create_user("owner@example.test", pk=known["owner"])
    envelope = Envelope.objects.create(
        uuid=known["uuid"],
        owner=owner,
        purpose=known["purpose"],
        policy="MASTER_ONLY",
        nonce=known["nonce"],
        ciphertext=known["ciphertext_and_tag"],
    )
    KeyWrap.objects.create(
        envelope=envelope, master_key_id=wrap["master_key_id"], wrapped_dek=wrap["wrapped"]
    )

    assert unseal(Envelope.objects.get()) == known["plaintext"]


def test_a_master_wrap_of_the_vectors_opens():
    known = vector("master_wrap")
    row = vector("envelope")
    envelope = Envelope(uuid=UUID(row["uuid"]), purpose=row["purpose"], owner_id=row["owner"])
    wrap = KeyWrap(
        envelope=envelope, master_key_id=known["master_key_id"], wrapped_dek=known["wrapped"]
    )
    key = AESKey(known["master_key_id"], known["master_key"])

    assert MasterKey(key).unwrap(wrap) == known["data_key"]


@pytest.mark.django_db
def test_a_machine_opens_the_known_sealed_box_and_one_made_now(alice, fixed_randomness):
    known = vector("device_wrap")
    machine = PrivateKey(known["private_key"])
    device = public_key_of(alice, known["public_key"])
    envelope = seal(
        alice, "certificate_key", b"secret", policy="DEVICE_REQUIRED", public_keys=[device]
    )

    assert bytes(machine.public_key) == known["public_key"]
    assert len(known["sealed_box"]) == 80
    assert SealedBox(machine).decrypt(known["sealed_box"]) == known["data_key"]
    assert SealedBox(machine).decrypt(bytes(envelope.wraps.get().wrapped_dek)) == known["data_key"]


def test_a_fingerprint_is_blake2b_of_32_bytes():
    known = vector("device_wrap")
    assert recipients.fingerprint(known["public_key"]) == known["fingerprint"]
