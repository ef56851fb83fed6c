"""The opening of a certificate's key is audited before the key is returned."""

import pytest
from django.db import transaction

from accounts import audit
from accounts.models import AuditEvent
from keystore.envelope import CannotOpen, open_certificate_key, seal, unseal

SECRET = b"correct horse battery staple"

pytestmark = pytest.mark.django_db


def test_opening_a_certificate_key_is_recorded(alice):
    envelope = seal(alice, "certificate_key", SECRET)

    assert (
        open_certificate_key(
            envelope, actor="alice@example.test", what="export of demo", ip="192.0.2.7"
        )
        == SECRET
    )
    event = AuditEvent.objects.get()
    assert (event.owner, event.actor, event.action) == (alice, "alice@example.test", "key.opened")
    assert (event.object, event.ip, event.detail) == (
        str(envelope),
        "192.0.2.7",
        {"what": "export of demo"},
    )


def test_a_key_that_cannot_be_recorded_is_not_handed_out(alice, monkeypatch):
    envelope = seal(alice, "certificate_key", SECRET)

    def fail(row: AuditEvent) -> None:
        raise RuntimeError

    monkeypatch.setattr(audit, "insert", fail)
    with pytest.raises(RuntimeError):
        open_certificate_key(envelope, actor="alice", what="export")


def test_a_record_that_a_later_rollback_could_take_along_is_refused(alice):
    envelope = seal(alice, "certificate_key", SECRET)
    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        open_certificate_key(envelope, actor="alice", what="export")


def test_a_key_that_did_not_open_is_not_recorded_as_opened(alice, settings):
    envelope = seal(alice, "certificate_key", SECRET)
    settings.MASTER_KEYS = "7:" + "B" * 42 + "A="

    with pytest.raises(CannotOpen):
        open_certificate_key(envelope, actor="alice", what="export")
    assert not AuditEvent.objects.exists()


def test_routine_openings_by_workers_are_not_audited(alice):
    unseal(seal(alice, "account_key", SECRET))
    assert not AuditEvent.objects.exists()


def test_only_certificate_keys_are_opened_this_way(alice):
    with pytest.raises(ValueError, match="not a certificate's key"):
        open_certificate_key(seal(alice, "account_key", SECRET), actor="alice", what="export")
