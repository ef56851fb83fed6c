"""The page of audit events, and their file."""

import json
from datetime import timedelta

import pytest
from django.db import connection

from accounts import audit, chain
from accounts.models import AuditEvent
from certctrl import clock
from dashboard import auditing
from tests.dashboard.streamed import streamed

pytestmark = pytest.mark.django_db
MARKUP = "<script>alert(1)</script>"


@pytest.fixture
def noted(alice) -> AuditEvent:
    audit.record(alice, "alice@example.org", "webhook.created", "webhook:1", "192.0.2.1")
    audit.record(alice, "ci", "certificate.created", "certificate:2", name=MARKUP)
    return audit.record(alice, "ci", "certificate.revoked", "certificate:2")


def actions(visitor, query: str) -> list[str]:
    return [event.action for event, *_shown in visitor.get(f"/audit{query}").context["rows"]]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", 3),
        ("?actor=ci", 2),
        ("?action=certificate.", 2),
        ("?action=certificate.created", 1),
        ("?action=cert", 0),
        ("?object=webhook:1", 1),
        ("?since=2000-01-01", 3),
        ("?until=2000-01-01", 0),
    ],
)
def test_events_are_found(visitor, noted, query, found):
    assert len([each for each in actions(visitor, query) if each[:4] != "user"]) == found


@pytest.mark.parametrize("query", ["?since=soon", "?actor=%00", f"?action={'x' * 65}"])
def test_a_bad_filter_is_refused(visitor, noted, query):
    page = visitor.get(f"/audit{query}")
    assert page.status_code == 400
    assert page.context["rows"] == []
    assert visitor.get(f"/audit.jsonl{query}").status_code == 400


def test_the_detail_of_an_event_is_shown_in_words(visitor, alice):
    detail = {
        "is_on": True,
        "was_on": False,
        "muted": ["expiring", "renewed"],
        "devices": [],
        "email": None,
        "changed": {"reuse_key": [False, True], "profile": ""},
        "digest_over": 7,
    }
    audit.record(alice, "ci", "notices.changed", "user:1", **detail)
    (shown,) = [words for event, _is, words in visitor.get("/audit").context["rows"] if words]
    assert dict(shown) == {
        "is_on": "yes",
        "was_on": "no",
        "muted": "expiring, renewed",
        "devices": "none",
        "email": "none",
        "changed": "reuse_key: no, yes; profile: none",
        "digest_over": "7",
    }


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (1, "keyCompromise: somebody else may have the key"),
        (0, "unspecified"),
        (99, "99"),
    ],
)
def test_the_reason_of_a_revocation_is_shown_in_words(visitor, alice, reason, words):
    audit.record(alice, "ci", "certificate.revoked", "version:1", reason=reason)
    assert f'<dd class="name">{words}</dd>' in visitor.get("/audit").content.decode()


def test_markup_in_an_event_is_shown_as_text(visitor, alice, noted):
    audit.record(alice, MARKUP, MARKUP, MARKUP)
    shown = visitor.get("/audit").content.decode()
    assert MARKUP not in shown
    assert "&lt;script&gt;" in shown


def test_the_events_of_another_owner_are_not_shown(bobs_visitor, noted):
    assert actions(bobs_visitor, "?action=certificate.") == []
    assert streamed(bobs_visitor.get("/audit.jsonl?action=certificate.")) == b""


def test_an_event_that_was_changed_is_called_out(visitor, noted):
    assert "not sealed yet" in visitor.get("/audit").content.decode()
    chain.seal()
    assert "sealed as" in visitor.get("/audit").content.decode()
    with connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER accounts_auditevent_is_not_changed")
        cursor.execute("UPDATE accounts_auditevent SET actor = 'x' WHERE id = %s", [noted.pk])
    shown = visitor.get("/audit").content.decode()
    assert "1 event was changed after it was sealed" in shown


@pytest.mark.parametrize("batch", [1, 1000])
def test_the_file_has_the_events_that_were_asked_for(visitor, noted, monkeypatch, batch):
    monkeypatch.setattr(auditing, "BATCH", batch)
    chain.seal()
    lines = streamed(visitor.get("/audit.jsonl?action=certificate.")).decode().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [each["action"] for each in entries] == ["certificate.revoked", "certificate.created"]
    assert all(chain.digest(each) == each["hash"] for each in entries)


def test_events_are_read_in_pages_with_their_filter(visitor, alice):
    for number in range(51):
        audit.record(alice, "ci", "certificate.created", f"certificate:{number}")
    first = visitor.get("/audit?actor=ci")
    second = visitor.get(f"/audit{first.context['page'].following}")
    assert [event.object for event, *_shown in second.context["rows"]] == ["certificate:0"]


def test_since_and_until_are_moments(alice, noted):
    late = clock.now() + timedelta(hours=1)
    assert not audit.events_of(alice, {"since": late}).exists()
    assert audit.events_of(alice, {"until": late, "actor": "ci"}).count() == 2
