"""`manage.py audit` finds tampering, also by heads that left the server."""

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from accounts import archive, audit, chain
from accounts.models import AuditEvent
from keystore import heads
from keystore.models import KeyWrap
from notices.heads import send
from tests.tampering import tamper

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]
TABLE = "accounts_auditevent"


def run(*args):
    """Return what the command prints, and the sentence that it ends with if it fails."""
    out = StringIO()
    try:
        call_command("audit", *args, stdout=out)
    except CommandError as exc:
        return out.getvalue().splitlines(), str(exc)
    return out.getvalue().splitlines(), ""


def record(owner, count):
    for number in range(count):
        audit.record(owner, "alice", "key.opened", f"certificate:{number}")


def rewrite(place):
    """Change the event and every hash from there on, as an operator could."""
    tamper(f"UPDATE {TABLE} SET actor = 'bob' WHERE place = %s", params=[place])
    previous = chain.hash_at(place - 1)
    for event in AuditEvent.objects.filter(place__gte=place).order_by("place"):
        entry = chain.entry_of(event) | {"previous_hash": previous}
        columns = [previous, chain.digest(entry), event.pk]
        tamper(f"UPDATE {TABLE} SET previous_hash = %s, hash = %s WHERE id = %s", params=columns)
        previous = chain.digest(entry)


@pytest.fixture
def log(alice):
    record(alice, 5)
    chain.seal()


@pytest.fixture
def saved(log, tmp_path):
    """A head of event 5 in a file."""
    file = tmp_path / "head.json"
    file.write_text(json.dumps(heads.sign()))
    return str(file)


def test_an_intact_log_ends_well(log):
    assert run("verify") == (["The audit log is intact up to event 5."], "")


def test_an_empty_log_ends_well(db):
    assert run("verify") == (["The audit log is intact up to event 0."], "")


def test_unsealed_events_are_counted(log, alice):
    record(alice, 2)
    lines, _ = run("verify")
    assert lines[0] == "2 events are not sealed yet, so they were not checked."


def test_each_fault_is_a_sentence_and_the_command_fails(log):
    tamper(f"DELETE FROM {TABLE} WHERE place = 2", f"UPDATE {TABLE} SET ip = NULL")
    tamper(f"UPDATE {TABLE} SET actor = 'bob' WHERE place = 4")
    lines, why = run("verify")
    assert lines[0] == "Event 2 was removed."
    assert lines[1].startswith("Event 4 (")
    assert why == "The audit log was tampered with. Faults: 2."


def test_a_saved_head_fits_the_log_that_went_on(saved, alice):
    record(alice, 3)
    chain.seal()
    assert run("verify", "--head", saved) == (["The audit log is intact up to event 8."], "")


def test_a_rewritten_log_is_found_by_a_saved_head_only(saved):
    rewrite(3)
    assert run("verify")[1] == ""
    lines, why = run("verify", "--head", saved)
    assert lines[0].startswith("Event 5 is not the one that the head of ")
    assert why


def test_a_removed_end_is_found_by_a_saved_head(saved):
    tamper(f"DELETE FROM {TABLE} WHERE place > 3")
    assert run("verify")[1] == ""
    lines, why = run("verify", "--head", saved)
    assert lines[0].endswith("names event 5, but the log ends with event 3.")
    assert why


def test_heads_that_the_server_sent_are_checked_too(log, alice, settings):
    settings.AUDIT_HEADS_TO, settings.AUDIT_HEADS_EVERY = [alice.email], 60.0
    send()
    assert run("verify")[1] == ""
    rewrite(3)
    assert run("verify")[0][0].startswith("Event 5 is not the one that the head of ")


def test_a_forged_head_is_refused(saved, tmp_path):
    head = json.loads((tmp_path / "head.json").read_text()) | {"place": 4}
    (tmp_path / "head.json").write_text(json.dumps(head))
    assert "has no valid signature of this server" in run("verify", "--head", saved)[1]


def test_a_missing_master_key_is_a_sentence(saved):
    KeyWrap.objects.update(master_key_id="gone")
    assert "Master key gone is not on this server." in run("verify", "--head", saved)[1]
    assert "Master key gone is not on this server." in run("head")[1]


def test_a_file_without_a_head_is_refused(log, tmp_path):
    (tmp_path / "file").write_text("{}")
    assert "has no head of an audit log" in run("verify", "--head", str(tmp_path / "file"))[1]
    assert "cannot be read" in run("verify", "--head", str(tmp_path / "nothing"))[1]
    assert "is not an archive" in run("verify", "--archive", str(tmp_path / "file"))[1]
    assert "cannot be read" in run("verify", "--archive", str(tmp_path / "nothing"))[1]


def test_an_archived_head_needs_its_archive(saved, alice, settings, tmp_path, monkeypatch):
    settings.KEEP_AUDIT_EVENTS = timedelta(days=30)
    settings.AUDIT_ARCHIVE = str(tmp_path)
    later = timezone.now() + timedelta(days=99)
    monkeypatch.setattr(timezone, "now", lambda: later)
    record(alice, 1)
    chain.seal()
    archive.prune()
    chain.seal()
    assert run("verify")[1] == ""
    lines, _ = run("verify", "--head", saved)
    assert lines == ["Event 5 of the head is not in the log. Give its archive with --archive."]
    file = str(tmp_path / "audit-1-5.jsonl")
    assert run("verify", "--head", saved, "--archive", file)[1] == ""


def test_the_head_is_printed_with_the_newest_events(log, alice):
    record(alice, 1)
    (line,), _ = run("head")
    head = json.loads(line)
    assert (head["place"], heads.is_genuine(head)) == (6, True)


def test_an_empty_log_has_no_head_to_print(db):
    assert run("head") == ([], "The audit log has no event yet.")
