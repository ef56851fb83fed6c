"""A signed head shows later what the audit log was."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from accounts import audit, chain
from keystore import heads
from keystore.models import Envelope

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]


@pytest.fixture
def head(alice):
    audit.record(alice, "alice", "key.opened", "certificate:7")
    chain.seal()
    return heads.sign()


def test_a_log_without_sealed_events_has_no_head(alice):
    assert heads.sign() is None


def test_a_head_names_the_newest_event(head):
    assert heads.link_of(head) == chain.head()
    assert heads.is_genuine(head)


def test_anyone_can_check_the_signature(head):
    signed = json.dumps(
        {name: head[name] for name in ("at", "hash", "place")}, separators=(",", ":")
    )
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(head["public_key"]))
    key.verify(base64.b64decode(head["signature"]), f"certctrl audit head 1\n{signed}".encode())


@pytest.mark.parametrize(
    "change",
    [{"place": 2}, {"hash": "0" * 64}, {"at": "2020"}, {"signature": "AAAA"}, {"signature": None}],
)
def test_a_changed_head_is_not_genuine(head, change):
    assert not heads.is_genuine(head | change)


def test_all_heads_are_signed_with_one_key(head):
    assert heads.sign()["public_key"] == head["public_key"]
    assert Envelope.objects.filter(purpose="audit_head_key").count() == 1


@pytest.mark.parametrize("around", ["{}", 'To: a@b.c\n\n{{no}} "{{" {}\n-- \nx', '{{"data": {}}}'])
def test_a_head_is_found_in_a_mail_and_in_a_post(head, around):
    assert heads.find(around.format(json.dumps(head))) == head


def test_a_text_without_a_head_has_none():
    assert heads.find('{"place": 1} {') is None
