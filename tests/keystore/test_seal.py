"""Seal and open: the plain text, the binding to the row, and secrets that are never shown."""

import traceback

import pytest
from django.db import IntegrityError, transaction
from django.views.debug import ExceptionReporter
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from certctrl.errors import Invalid
from certctrl.statements import insert
from keystore import envelope
from keystore.envelope import CannotOpen, parts, seal, unseal
from keystore.masterkeys import MasterKeyProblem
from keystore.models import Envelope, KeyWrap
from tests.keystore.conftest import public_key_of

SECRET = b"correct horse battery staple"

pytestmark = pytest.mark.django_db


def reread(envelope: Envelope) -> Envelope:
    return Envelope.objects.get(pk=envelope.pk)


@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(
    plaintext=st.binary(max_size=5000),
    purpose=st.sampled_from(["certificate_key", "account_key", "dns_credential"]),
)
def test_a_sealed_secret_opens_unchanged(alice, plaintext, purpose):
    envelope = reread(seal(alice, purpose, plaintext))

    assert unseal(envelope) == plaintext
    assert len(envelope.nonce) == 12
    assert len(envelope.ciphertext) == len(plaintext) + 16
    assert len(plaintext) < 8 or plaintext not in bytes(envelope.ciphertext)


def test_the_same_secret_sealed_twice_looks_different(alice):
    one = seal(alice, "account_key", SECRET)
    two = seal(alice, "account_key", SECRET)

    assert one.nonce != two.nonce
    assert one.ciphertext != two.ciphertext
    assert one.wraps.get().wrapped_dek != two.wraps.get().wrapped_dek


def test_each_envelope_has_a_data_key_of_its_own(alice):
    one = seal(alice, "certificate_key", SECRET)
    two = seal(alice, "certificate_key", SECRET)
    one.nonce = two.nonce
    one.ciphertext = two.ciphertext

    with pytest.raises(CannotOpen):
        unseal(one)


def test_contents_swapped_between_two_rows_with_their_wraps_do_not_open(alice):
    one = seal(alice, "account_key", SECRET)
    two = seal(alice, "account_key", b"other")
    swapped = two.nonce, two.ciphertext, two.wraps.get().wrapped_dek
    Envelope.objects.filter(pk=one.pk).update(nonce=swapped[0], ciphertext=swapped[1])
    one.wraps.update(wrapped_dek=swapped[2])

    with pytest.raises(CannotOpen):
        unseal(reread(one))


def test_a_content_that_was_put_under_another_rows_data_key_does_not_open(alice, monkeypatch):
    monkeypatch.setattr("keystore.envelope.AESGCM.generate_key", lambda bits: bytes(32))
    one = seal(alice, "account_key", SECRET)
    two = seal(alice, "account_key", b"other")
    one.nonce = two.nonce
    one.ciphertext = two.ciphertext

    with pytest.raises(CannotOpen, match="content was altered"):
        unseal(one)


def test_a_wrap_moved_to_another_row_does_not_open(alice):
    one = seal(alice, "certificate_key", SECRET)
    two = seal(alice, "certificate_key", b"other")
    wrapped = one.wraps.get().wrapped_dek
    two.wraps.update(wrapped_dek=wrapped)

    with pytest.raises(CannotOpen, match="Master key 1 of this server does not open this"):
        unseal(two)


@pytest.mark.parametrize(
    "change", [{"owner": "bob"}, {"purpose": "dns_credential"}, {"purpose": "certificate_key"}]
)
def test_a_row_given_to_another_owner_or_purpose_does_not_open(alice, bob, change):
    envelope = seal(alice, "account_key", SECRET)
    Envelope.objects.filter(pk=envelope.pk).update(
        **{k: bob if v == "bob" else v for k, v in change.items()}
    )

    with pytest.raises(CannotOpen):
        unseal(reread(envelope))


@pytest.mark.parametrize("purpose", ["certificate_key", "account_key"])
@pytest.mark.parametrize("place", [0, 5, -1])
def test_one_flipped_bit_anywhere_is_noticed(alice, purpose, place):
    envelope = seal(alice, purpose, SECRET)
    altered = bytearray(envelope.ciphertext)
    altered[place] ^= 1
    Envelope.objects.filter(pk=envelope.pk).update(ciphertext=bytes(altered))

    with pytest.raises(CannotOpen) as failure:
        unseal(reread(envelope))
    assert failure.value.permanent


@pytest.mark.parametrize("wrapped", [b"", b"short", bytes(60)])
def test_a_broken_wrap_is_a_sentence_not_a_crash(alice, wrapped):
    envelope = seal(alice, "account_key", SECRET)
    envelope.wraps.update(wrapped_dek=wrapped)

    with pytest.raises(CannotOpen, match="does not open this"):
        unseal(envelope)


def test_a_broken_nonce_is_a_sentence_not_a_crash(alice):
    envelope = seal(alice, "account_key", SECRET)
    Envelope.objects.filter(pk=envelope.pk).update(nonce=b"")

    with pytest.raises(CannotOpen, match="content was altered"):
        unseal(reread(envelope))


def test_a_certificate_keys_parts_are_those_that_machines_take(alice):
    nonce, ciphertext, tag = parts(seal(alice, "certificate_key", SECRET))

    assert (len(nonce), len(ciphertext), len(tag)) == (12, len(SECRET), 16)


def test_a_missing_master_key_is_named(alice, settings):
    envelope = seal(alice, "account_key", SECRET)
    settings.MASTER_KEYS = "7:" + "B" * 42 + "A="

    with pytest.raises(
        CannotOpen, match=r"Master key 1 is not on this server\. Restore it in MASTER_KEYS"
    ) as failure:
        unseal(envelope)
    assert not failure.value.permanent  # a person puts it back, and work goes on


def test_another_key_under_the_same_id_is_reported(alice, settings):
    envelope = seal(alice, "account_key", SECRET)
    settings.MASTER_KEYS = "1:" + "B" * 42 + "A="

    with pytest.raises(CannotOpen, match="Another key of the same id"):
        unseal(envelope)


def test_nothing_is_stored_when_a_wrap_cannot_be(alice, monkeypatch):
    def insert_or_fail(row: Envelope | KeyWrap) -> Envelope | KeyWrap:
        if isinstance(row, KeyWrap):
            raise IntegrityError
        return insert(row)

    monkeypatch.setattr(envelope, "insert", insert_or_fail)
    with pytest.raises(IntegrityError), transaction.atomic():
        seal(alice, "account_key", SECRET)
    assert not Envelope.objects.exists()


def test_nothing_is_stored_without_a_master_key(alice, settings):
    settings.MASTER_KEYS = "not a key"

    with pytest.raises(MasterKeyProblem):
        seal(alice, "account_key", SECRET)
    assert not Envelope.objects.exists()


DATA_KEY = b"a data key of thirty-two bytes!!"


def reported(failure: pytest.ExceptionInfo[Exception]) -> str:
    """Return all that a log or an error page could show, without this file's frames."""
    trace = failure.tb.tb_next
    reporter = ExceptionReporter(None, failure.type, failure.value, trace)
    told = traceback.format_exception(failure.type, failure.value, trace)
    return "".join(
        [*told, reporter.get_traceback_text(), reporter.get_traceback_html(), repr(failure.value)]
    )


@pytest.fixture
def known_data_key(monkeypatch, settings):
    settings.DEBUG = False
    monkeypatch.setattr("keystore.envelope.AESGCM.generate_key", lambda bits: DATA_KEY)


def test_no_secret_shows_in_a_repr(alice, known_data_key):
    envelope = seal(alice, "account_key", SECRET)
    shown = " ".join(
        [repr(envelope), str(envelope), repr(envelope.wraps.get()), str(envelope.wraps.get())]
    )

    assert "horse" not in shown
    assert "data key of" not in shown


def test_no_secret_shows_when_opening_fails(alice, known_data_key):
    envelope = seal(alice, "account_key", SECRET)
    Envelope.objects.filter(pk=envelope.pk).update(nonce=bytes(12))

    with pytest.raises(CannotOpen) as failure:
        unseal(reread(envelope))
    assert "data key of" not in reported(failure)


def test_no_secret_shows_when_sealing_fails(alice, known_data_key):
    useless = public_key_of(alice, bytes(32))

    with pytest.raises(Invalid) as failure:
        seal(alice, "certificate_key", SECRET, policy="HYBRID", public_keys=[useless])
    shown = reported(failure)
    assert "horse" not in shown
    assert "data key of" not in shown
    assert "Enrol the device again" in shown
