"""Audit events are added, and never changed or deleted."""

from types import SimpleNamespace

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.models.deletion import ProtectedError

from accounts import audit
from accounts.models import ApiKey, AuditEvent
from tests import factories


@pytest.fixture
def event(alice):
    return audit.record(
        alice, "alice@example.org", "key.exported", "certificate:7", "203.0.113.9", format="zip"
    )


def test_an_event_says_who_did_what_to_what(event, alice):
    event.refresh_from_db()
    assert (event.owner, event.actor, event.action, event.object) == (
        alice,
        "alice@example.org",
        "key.exported",
        "certificate:7",
    )
    assert event.ip == "203.0.113.9"
    assert event.detail == {"format": "zip"}
    assert event.at


@pytest.mark.parametrize(
    ("said", "ip"),
    [
        ("203.0.113.9", "203.0.113.9"),
        (" 203.0.113.9 ", "203.0.113.9"),
        ("203.0.113.9:5678", "203.0.113.9"),
        ("2001:DB8::9", "2001:db8::9"),
        ("[2001:db8::9]", "2001:db8::9"),
        ("[2001:db8::9]:5678", "2001:db8::9"),
        ("fe80::9%eth0", "fe80::9"),
        ("unknown", None),
        ("_hidden", None),
        ("x'y", None),
        ("203.0.113.999", None),
        ("", None),
    ],
)
def test_an_address_is_kept_without_its_port_and_nothing_else_is(said, ip):
    assert audit.ip_of(SimpleNamespace(META={"REMOTE_ADDR": said})) == ip


@pytest.mark.postgres
def test_an_unchecked_header_of_a_proxy_is_not_stored(client_of, alice):
    key = {
        "name": "ci",
        "expires_in_seconds": 60,
        "permissions": [factories.permission("devices:*[read]")],
    }
    assert client_of(alice).post("/apiv1/me/apikeys", key, REMOTE_ADDR="unknown").status_code == 201
    assert AuditEvent.objects.get().ip is None


@pytest.mark.parametrize(
    "attempt",
    [
        lambda event: event.save(),
        lambda event: event.delete(),
        lambda event: AuditEvent.objects.update(action="x"),
        lambda event: AuditEvent.objects.filter(pk=event.pk).delete(),
        lambda event: AuditEvent.objects.bulk_update([event], ["action"]),
        lambda event: event.owner.audit_events.update(action="x"),
        lambda event: event.owner.audit_events.all().delete(),
    ],
)
def test_an_event_is_neither_changed_nor_removed(event, attempt):
    event.action = "something.else"
    with pytest.raises(TypeError):
        attempt(event)
    assert list(AuditEvent.objects.values_list("action", flat=True)) == ["key.exported"]


def test_a_user_with_audit_events_is_not_deleted(event, alice):
    with pytest.raises(ProtectedError):
        alice.delete()


@pytest.mark.postgres
def test_a_long_address_is_cut_and_the_key_beside_it_is_not(db):
    factories.api_key(
        factories.UserFactory(email=f"{'a' * 64}@{'b' * 60}.{'c' * 60}.{'d' * 60}.test"),
        name="k" * 64,
    )
    key = ApiKey.objects.get()
    request = SimpleNamespace(user=key.owner, auth=key)
    event = audit.record(key.owner, audit.actor_of(request), "key.exported", "certificate:7")
    event.refresh_from_db()
    assert len(event.actor) == 254
    assert event.actor.endswith(f" with {key}")
    assert event.actor.startswith("aaaa")


@pytest.mark.postgres
def test_a_long_object_is_cut(alice):
    event = audit.record(
        alice, alice.email, "record.removed_by_hand", "_acme-challenge." + "x" * 300
    )
    event.refresh_from_db()
    assert len(event.object) == 254


@pytest.mark.postgres
@pytest.mark.postgres_only
@pytest.mark.parametrize(
    "sql", ["UPDATE accounts_auditevent SET action = 'x'", "DELETE FROM accounts_auditevent"]
)
def test_postgresql_refuses_what_goes_past_the_models(event, sql):
    with (
        pytest.raises(DatabaseError, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(sql)
