"""The audit log is a chain. Each sealed event has the hash of the event before it.

`seal` runs once a minute and adds the new events to the chain. `check` finds an event that was
changed, removed or reordered. See docs/decisions/0031-audit-log-is-a-chain.md.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.db.models import QuerySet

from accounts.models import AuditEvent

BATCH = 500  # events sealed in one transaction
LOCK = 0x61756469742E6C67  # the advisory lock of PostgreSQL that sealing and archiving take
COLUMNS = ("id", "at", "owner_id", "actor", "action", "object", "ip", "detail")

Entry = dict[str, Any]  # an event as JSON, in an archive as well


class Link(NamedTuple):
    """A place in the chain, and the hash of the event there."""

    place: int
    hash: str


START = Link(0, "0" * 64)


@contextmanager
def locked() -> Iterator[None]:
    """Hold the chain for a transaction, so that no other process seals or archives.

    On SQLite every transaction of this server already excludes all other writers.
    """
    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        yield


def seal() -> int:
    """Add all events that are not sealed to the chain. Return how many were added.

    Events are sealed in the order of their ids. An event that is committed later than one with a
    higher id gets a later place.
    """
    count = 0
    while found := _seal_batch():
        count += found
    return count


def _seal_batch() -> int:
    waiting = AuditEvent.objects.filter(place=None).order_by("pk")
    if not waiting.exists():  # the usual answer needs no lock
        return 0
    with locked():
        link, sealed = head(), []
        for event in waiting[:BATCH]:
            entry = entry_of(event) | {"previous_hash": link.hash}
            sealed.append((link.place + 1, link.hash, digest(entry), event.pk))
            link = Link(link.place + 1, digest(entry))
        with connection.cursor() as cursor:
            cursor.executemany(
                "UPDATE accounts_auditevent SET place = %s, previous_hash = %s, hash = %s "
                "WHERE id = %s AND place IS NULL",
                sealed,
            )
    return len(sealed)


def head() -> Link:
    """Return the end of the chain. Without a sealed event it is `START`."""
    last = sealed_events().order_by("-place").first()
    return Link(last.place or 0, last.hash) if last else START


def first_place() -> int:
    """Return the place of the oldest event that is in the database, or 1."""
    return sealed_events().order_by("place").values_list("place", flat=True).first() or 1


def hash_at(place: int) -> str | None:
    return AuditEvent.objects.filter(place=place).values_list("hash", flat=True).first()


def sealed_events() -> QuerySet[AuditEvent]:
    return AuditEvent.objects.filter(place__isnull=False)


def entry_of(event: AuditEvent) -> Entry:
    """Return the event with its place and hashes as JSON. Times are in UTC with microseconds."""
    columns = {name: getattr(event, name) for name in COLUMNS}
    columns["at"] = event.at.astimezone(UTC).isoformat(timespec="microseconds")
    return columns | {
        "place": event.place,
        "previous_hash": event.previous_hash,
        "hash": event.hash,
    }


def digest(entry: Entry) -> str:
    """Return the SHA-256 of the columns and the previous hash, in hexadecimal.

    The encoding is JSON with sorted members, no spaces, and ASCII only. `place` is not part of it,
    because the previous hash gives the place.
    """
    hashed = {name: entry[name] for name in (*COLUMNS, "previous_hash")}
    return hashlib.sha256(
        json.dumps(hashed, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def is_intact(event: AuditEvent) -> bool | None:
    """Return whether a sealed event still has its hash. Return None for one that is not sealed.

    Only `faults` finds events that were removed or reordered.
    """
    return digest(entry_of(event)) == event.hash if event.place else None


def check(
    entries: Iterable[Entry], start: Link, place_of: Callable[[str], int | None]
) -> Iterator[str]:
    """Check a part of the chain that follows `start`. Yield a sentence for each fault.

    `entries` are in the order of their places. `place_of` returns the place of the event with a
    given hash, or None if there is none.
    """
    before = start
    for entry in entries:
        place, previous = entry["place"], entry["previous_hash"]
        if place != before.place + 1:
            yield _gap(before.place, place)
        elif previous != before.hash:
            yield _broken(entry, place_of(previous))
        if digest(entry) != entry["hash"]:
            yield f"{named(entry)} was changed after it was sealed."
        before = Link(place, entry["hash"])


def named(entry: Entry) -> str:
    return f"Event {entry['place']} (id {entry['id']}, {entry['action']} of {entry['object']})"


def _gap(before: int, place: int) -> str:
    if place <= before:
        return f"Place {place} of the chain has two events."
    if place == before + 2:
        return f"Event {before + 1} was removed."
    return f"Events {before + 1} to {place - 1} were removed."


def _broken(entry: Entry, origin: int | None) -> str:
    if origin is None:
        return f"An event directly before {named(entry)} was removed or changed."
    return f"{named(entry)} was reordered. It was sealed directly after the event now at {origin}."


def faults() -> Iterator[str]:
    """Check all sealed events in the database. Yield a sentence for each fault."""
    events = sealed_events().order_by("place").iterator(chunk_size=2000)
    first = next(events, None)
    if first is None:
        return
    start, fault = start_before(first)
    if fault:
        yield fault
    yield from check(map(entry_of, itertools.chain([first], events)), start, place_of)


def place_of(hash: str) -> int | None:
    if hash == START.hash:
        return START.place
    return sealed_events().filter(hash=hash).values_list("place", flat=True).first()


def start_before(first: AuditEvent) -> tuple[Link, str]:
    """Return where the chain in the database starts, and a sentence if no archive ends there."""
    if first.place == 1:
        return START, ""
    before = (first.place or 0) - 1
    archives = AuditEvent.objects.filter(action=AuditEvent.ARCHIVED, detail__last=before)
    ends = {event.detail.get("after") for event in archives}
    if first.previous_hash in ends:
        return Link(before, first.previous_hash), ""
    fault = f"Events 1 to {before} were removed, and no event says that they were archived."
    if ends:
        fault = f"The archive that ends with event {before} does not fit event {before + 1}."
    return Link(before, first.previous_hash), fault
