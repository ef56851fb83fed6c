"""Each sealed audit event has the hash of the one before, so that tampering is found."""

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from django.db import DatabaseError, connection, transaction

from accounts import audit, chain
from accounts.models import AuditEvent
from tests.issuance.racing import at_once
from tests.patience import LIMIT
from tests.tampering import tamper

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]
TABLE = "accounts_auditevent"
ROOT = Path(__file__).resolve().parent.parent.parent
ON_SQLITE = """
import django
django.setup()
from accounts import audit, chain
from accounts.models import User
from tests.issuance.racing import at_once

owner = User.objects.create_user("owner@example.com")
chain.BATCH = 3

def write():
    for _ in range(15):
        audit.record(owner, "alice", "key.opened", "certificate:7")

def seal():
    for _ in range(15):
        chain.seal()

print(at_once(write, write, write, seal, seal, seal))
chain.seal()
print(chain.head().place, list(chain.faults()))
"""


def record(owner, count=1):
    for number in range(count):
        audit.record(owner, "alice", "key.opened", f"certificate:{number}", "192.0.2.1", b=1, a="é")


@pytest.fixture
def log(alice):
    """Five sealed events."""
    record(alice, 5)
    chain.seal()


def faults():
    return list(chain.faults())


def test_an_event_is_not_sealed_until_the_next_pass(alice):
    record(alice)
    assert AuditEvent.objects.get().place is None
    assert chain.seal() == 1
    event = AuditEvent.objects.get()
    assert (event.place, event.previous_hash) == (1, "0" * 64)
    assert chain.head() == (1, event.hash)


def test_each_event_has_the_hash_of_the_one_before(log):
    first, *others = AuditEvent.objects.order_by("place")
    assert [each.place for each in (first, *others)] == [1, 2, 3, 4, 5]
    for other in others:
        assert other.previous_hash == first.hash
        first = other


def test_a_second_pass_goes_on_at_the_head(log, alice):
    record(alice, 2)
    assert chain.seal() == 2
    assert chain.seal() == 0
    assert faults() == []
    assert chain.head().place == 7


def test_more_events_than_a_batch_are_sealed_in_one_pass(alice, monkeypatch):
    monkeypatch.setattr(chain, "BATCH", 2)
    record(alice, 5)
    assert chain.seal() == 5
    assert faults() == []


def test_a_pass_without_new_events_is_one_statement(log, django_assert_num_queries):
    with django_assert_num_queries(1):
        chain.seal()


def test_the_encoding_of_an_event_is_fixed():
    """A saved head must still fit after an update of this server."""
    entry = {
        "id": 7,
        "at": "2026-01-02T03:04:05.000006+00:00",
        "owner_id": 1,
        "actor": "é",
        "action": "key.opened",
        "object": "certificate:7",
        "ip": None,
        "detail": {"b": 1, "a": [True, None]},
        "place": 1,
        "previous_hash": "0" * 64,
        "hash": "",
    }
    text = (
        '{"action":"key.opened","actor":"\\u00e9","at":"2026-01-02T03:04:05.000006+00:00",'
        '"detail":{"a":[true,null],"b":1},"id":7,"ip":null,"object":"certificate:7","owner_id":1,'
        f'"previous_hash":"{"0" * 64}"}}'
    )
    assert chain.digest(entry) == hashlib.sha256(text.encode("ascii")).hexdigest()


def test_an_intact_log_has_no_faults(log):
    assert faults() == []


@pytest.mark.parametrize(
    "change",
    [
        "actor = 'bob'",
        "action = 'key.closed'",
        "object = 'certificate:9'",
        "ip = NULL",
        "detail = '{}'",
        "at = '2020-01-01 00:00:00+00:00'",
        "owner_id = owner_id + 1",
    ],
)
def test_a_changed_event_is_named(log, alice, bob, change):
    event = AuditEvent.objects.get(place=3)
    alice_or_bob = min(alice.pk, bob.pk)
    assert event.owner_id == alice_or_bob
    tamper(f"UPDATE {TABLE} SET {change} WHERE place = 3")
    (fault,) = faults()
    assert fault.startswith(f"Event 3 (id {event.pk}, ")
    assert fault.endswith("was changed after it was sealed.")


def test_a_changed_event_with_a_new_hash_is_found(log):
    tamper(f"UPDATE {TABLE} SET actor = 'bob' WHERE place = 3")
    entry = chain.entry_of(AuditEvent.objects.get(place=3))
    tamper(f"UPDATE {TABLE} SET hash = %s WHERE place = 3", params=[chain.digest(entry)])
    (fault,) = faults()
    assert fault.startswith("An event directly before Event 4 ")
    assert fault.endswith("was removed or changed.")


def test_a_removed_event_is_named(log):
    tamper(f"DELETE FROM {TABLE} WHERE place = 3")
    assert faults() == ["Event 3 was removed."]


def test_removed_events_are_named(log):
    tamper(f"DELETE FROM {TABLE} WHERE place IN (2, 3, 4)")
    assert faults() == ["Events 2 to 4 were removed."]


def test_a_removal_from_the_beginning_is_found(log):
    tamper(f"DELETE FROM {TABLE} WHERE place < 3")
    assert faults() == ["Events 1 to 2 were removed, and no event says that they were archived."]


def test_a_removal_is_found_even_if_the_places_are_closed_up(log):
    tamper(
        f"DELETE FROM {TABLE} WHERE place = 3",
        f"UPDATE {TABLE} SET place = 3 WHERE place = 4",
        f"UPDATE {TABLE} SET place = 4 WHERE place = 5",
    )
    (fault,) = faults()
    assert fault.startswith("An event directly before Event 3 ")


def test_reordered_events_are_named(log):
    tamper(
        f"UPDATE {TABLE} SET place = 99 WHERE place = 3",
        f"UPDATE {TABLE} SET place = 3 WHERE place = 4",
        f"UPDATE {TABLE} SET place = 4 WHERE place = 99",
    )
    found = faults()
    assert [fault.split(" (")[0] for fault in found] == ["Event 3", "Event 4", "Event 5"]
    assert all("was reordered" in fault for fault in found)


def test_an_event_that_is_sealed_again_is_found(log):
    tamper(f"UPDATE {TABLE} SET place = NULL, hash = '', previous_hash = '' WHERE place = 3")
    assert chain.seal() == 1
    assert faults() == ["Event 3 was removed."]


def refused(sql):
    with (
        pytest.raises(DatabaseError, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(sql)


@pytest.mark.parametrize(
    "sql",
    [
        f"UPDATE {TABLE} SET actor = 'bob'",
        f"UPDATE {TABLE} SET place = 9 WHERE place = 5",
        f"UPDATE {TABLE} SET place = NULL, hash = '', previous_hash = '' WHERE place = 5",
        f"DELETE FROM {TABLE} WHERE place = 5",
    ],
)
def test_the_database_refuses_to_change_a_sealed_event(log, sql):
    refused(sql)


@pytest.mark.parametrize(
    "sql",
    [
        f"UPDATE {TABLE} SET actor = 'bob'",
        f"UPDATE {TABLE} SET place = 1, hash = 'x', previous_hash = 'x', actor = 'bob'",
        f"DELETE FROM {TABLE}",
    ],
)
def test_the_database_refuses_to_change_an_unsealed_event(alice, sql):
    record(alice)
    refused(sql)


@pytest.mark.django_db(transaction=True)
@pytest.mark.postgres_only
def test_sealing_does_not_wait_for_an_open_transaction(alice):
    """An event that is committed late gets a later place than its id says."""
    begun, may_end = threading.Event(), threading.Event()

    def slow():
        try:
            with transaction.atomic():
                audit.record(alice, "slow", "key.opened", "certificate:1")
                begun.set()
                may_end.wait(LIMIT)
        finally:
            connection.close()

    thread = threading.Thread(target=slow)
    thread.start()
    assert begun.wait(LIMIT)
    record(alice)
    assert chain.seal() == 1
    may_end.set()
    thread.join()
    assert chain.seal() == 1
    late = AuditEvent.objects.get(actor="slow")
    assert (late.place, late.pk < AuditEvent.objects.get(place=1).pk) == (2, True)
    assert faults() == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.postgres_only
def test_writers_and_sealers_at_once_make_one_chain(alice, monkeypatch):
    monkeypatch.setattr(chain, "BATCH", 3)

    def fifteen_times(act):
        return lambda: [act() for _ in range(15)] and None

    acts = [lambda: record(alice)] * 3 + [chain.seal] * 3
    assert at_once(*map(fifteen_times, acts)) == [None] * 6
    chain.seal()
    assert chain.head().place == AuditEvent.objects.count() == 45
    assert faults() == []


@pytest.mark.slow
def test_on_sqlite_writers_and_sealers_make_one_chain(tmp_path):
    """The tests' own SQLite is in memory, where threads share a cache. This one is a file."""
    env = os.environ | {
        "DATABASE_URL": f"sqlite:///{tmp_path}/log.sqlite3",
        "DJANGO_SETTINGS_MODULE": "tests.settings",
    }
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], env=env, cwd=ROOT, check=True)
    result = subprocess.run(
        [sys.executable, "-c", ON_SQLITE], env=env, cwd=ROOT, capture_output=True, text=True
    )
    assert result.stdout.splitlines() == ["[None, None, None, None, None, None]", "45 []"], result
