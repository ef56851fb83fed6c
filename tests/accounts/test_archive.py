"""Old audit events go into a file with a proof, and the log stays intact."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from accounts import archive, audit, chain
from accounts.models import AuditEvent
from tests.issuance.racing import at_once
from tests.tampering import tamper

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]


@pytest.fixture
def now(monkeypatch):
    """The time as a list of one. The tests move it."""
    now = [timezone.now()]
    monkeypatch.setattr(timezone, "now", lambda: now[0])
    return now


@pytest.fixture
def log(alice, now, settings, tmp_path):
    """Three old events and two new ones, all sealed."""
    settings.KEEP_AUDIT_EVENTS = timedelta(days=30)
    settings.AUDIT_ARCHIVE = str(tmp_path / "audit")
    for number in range(3):
        audit.record(alice, "alice", "key.opened", f"certificate:{number}", "192.0.2.1")
    chain.seal()
    now[0] += timedelta(days=32)
    for number in range(2):
        audit.record(alice, "alice", "key.opened", f"certificate:{number}")
    chain.seal()
    return Path(settings.AUDIT_ARCHIVE)


def places():
    return list(AuditEvent.objects.order_by("pk").values_list("place", flat=True))


def faults():
    return list(chain.faults())


def test_old_events_go_into_a_file_with_their_proof(log):
    old = [chain.entry_of(each) for each in AuditEvent.objects.filter(place__lte=3)]
    archive.prune()
    (file,) = log.iterdir()
    assert (file.name, file.stat().st_mode & 0o777) == ("audit-1-3.jsonl", 0o600)
    proof, *entries = map(json.loads, file.read_text().splitlines())
    assert proof == {
        "archive": {"first": 1, "last": 3, "before": "0" * 64, "after": old[-1]["hash"]}
    }
    assert entries == old
    assert places() == [4, 5, None]


def test_the_log_is_intact_after_an_archive(log):
    archive.prune()
    assert faults() == []
    assert chain.seal() == 1
    assert faults() == []
    event = AuditEvent.objects.get(place=6)
    assert (event.actor, event.action, event.object) == ("certctrl", "audit.archived", "audit:1-3")
    assert event.detail["file"] == str(log / "audit-1-3.jsonl")


@pytest.mark.django_db(transaction=True)
@pytest.mark.postgres_only
def test_two_prunings_at_once_archive_once(log):
    assert at_once(archive.prune, archive.prune, chain.seal)[:2] == [None, None]
    chain.seal()
    assert places() == [4, 5, 6]
    assert faults() == []


def test_a_second_archive_goes_on_where_the_first_ended(log, alice, now):
    archive.prune()
    chain.seal()
    now[0] += timedelta(days=32)
    audit.record(alice, "alice", "key.opened", "certificate:9")
    chain.seal()
    archive.prune()
    assert places() == [7, None]
    assert faults() == []
    both = [archive.read(log / name) for name in ("audit-1-3.jsonl", "audit-4-6.jsonl")]
    assert both[0].last == both[1].before
    assert [fault for each in both for fault in archive.faults(each)] == []


def test_the_newest_event_stays(log, now):
    now[0] += timedelta(days=99)
    archive.prune()
    assert places() == [5, None]
    chain.seal()
    assert faults() == []


def test_events_are_kept_for_ever_by_default(log, settings):
    settings.KEEP_AUDIT_EVENTS = None
    archive.prune()
    assert places() == [1, 2, 3, 4, 5]
    assert not log.exists()


def test_at_most_one_file_is_written_in_a_day(log, settings):
    settings.KEEP_AUDIT_EVENTS = timedelta(days=31, hours=12)
    archive.prune()
    assert not log.exists()


def test_events_that_were_tampered_with_are_not_archived(log):
    tamper("UPDATE accounts_auditevent SET actor = 'bob' WHERE place = 2")
    archive.prune()
    assert places() == [1, 2, 3, 4, 5]
    assert not log.exists()


def test_a_full_disk_leaves_the_log_as_it_is(log, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive, "_write", full)
    with pytest.raises(OSError, match="No space"):
        archive.prune()
    assert places() == [1, 2, 3, 4, 5]


def test_a_removal_beside_the_archive_is_found(log):
    archive.prune()
    tamper("DELETE FROM accounts_auditevent WHERE place = 4")
    assert faults() == ["Events 1 to 4 were removed, and no event says that they were archived."]


def test_a_changed_archive_is_found(log):
    archive.prune()
    (file,) = log.iterdir()
    file.write_text(file.read_text().replace("certificate:1", "certificate:8"))
    (fault,) = archive.faults(archive.read(file))
    assert fault.startswith("Event 2 (")
    assert fault.endswith("was changed after it was sealed.")


def test_an_archive_without_its_last_event_is_found(log):
    archive.prune()
    (file,) = log.iterdir()
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert list(archive.faults(archive.read(file))) == [
        "The archive does not end with event 3 of its first line."
    ]


def test_an_archive_that_was_written_again_does_not_fit_the_log(log):
    archive.prune()
    (file,) = log.iterdir()
    before, last, entries = archive.read(file)
    entries[-1]["actor"] = "bob"
    entries[-1]["hash"] = chain.digest(entries[-1])
    forged = archive.Archive(before, last._replace(hash=entries[-1]["hash"]), entries)
    assert list(archive.faults(forged)) == [
        "The log names another hash for event 3 than the archive."
    ]


@pytest.mark.parametrize("text", ["", "{}", "[]\n", "no JSON", '{"archive": {"first": 1}}'])
def test_another_file_is_not_an_archive(tmp_path, text):
    (tmp_path / "file").write_text(text)
    with pytest.raises(archive.NotAnArchive, match="is not an archive"):
        archive.read(tmp_path / "file")
