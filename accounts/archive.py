"""Old audit events leave the database for a file, which proves that it has all of them.

A file has one JSON object on each line. The first line is the proof: the places of the first and
the last event, the hash before the first one, and the hash of the last one. Then the events follow.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import structlog
from django.conf import settings

from accounts import audit, chain
from accounts.chain import Entry, Link
from accounts.models import AuditEvent, User
from certctrl import retention

logger = structlog.get_logger()
BATCH = 5000  # events of one file
SPACING = timedelta(days=1)  # between two files, so that few are written


class NotAnArchive(Exception):
    """The file is not an archive of audit events. `what` says why."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class Archive(NamedTuple):
    """An archive as read from its file: the link before it, its last link, and its events."""

    before: Link
    last: Link
    entries: list[Entry]


def prune() -> None:
    """Archive the events that are older than KEEP_AUDIT_EVENTS, then delete them.

    Only the beginning of the chain is archived. The newest sealed event always stays. Events that
    were tampered with stay too, with all later ones.
    """
    before = retention.before(settings.KEEP_AUDIT_EVENTS)
    first = chain.sealed_events().order_by("place").first()
    if before is None or first is None or first.at >= before - SPACING:
        return
    with chain.locked():
        oldest = chain.sealed_events().order_by("place")
        old = list(takewhile(lambda event: event.at < before, oldest[:BATCH]))
        if old and old[-1].place == chain.head().place:
            old.pop()
        if old:
            _archive(old)


def _archive(old: Sequence[AuditEvent]) -> None:
    """Write the file, note it in the log, and delete the events. The chain must be locked."""
    entries = [chain.entry_of(event) for event in old]
    start, fault = chain.start_before(old[0])
    faults = [fault] if fault else [*chain.check(entries, start, chain.place_of)]
    if faults:
        logger.error("audit.not_archived", why=faults[0], faults=len(faults))
        return
    first, last = entries[0]["place"], entries[-1]["place"]
    proof = {"first": first, "last": last, "before": start.hash, "after": entries[-1]["hash"]}
    content = "".join(f"{json.dumps(each)}\n" for each in ({"archive": proof}, *entries)).encode()
    path = Path(settings.AUDIT_ARCHIVE) / f"audit-{first}-{last}.jsonl"
    _write(path, content)
    facts = proof | {"file": str(path), "sha256": hashlib.sha256(content).hexdigest()}
    # The triggers let events go only after this one says so.
    owner = User.objects.earliest("pk")
    audit.record(owner, audit.PROCESS, AuditEvent.ARCHIVED, f"audit:{first}-{last}", **facts)
    AuditEvent._base_manager.filter(place__lte=last).delete()
    logger.info("audit.archived", file=str(path), first=first, last=last)


def _write(path: Path, content: bytes) -> None:
    """Write the file under its name only when all of it is on the disk."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path: str | Path) -> Archive:
    """Return the archive in a file. Raise NotAnArchive."""
    try:
        lines = Path(path).read_text().splitlines()
        proof, *entries = [json.loads(line) for line in lines]
        proof = proof["archive"]
        before = Link(proof["first"] - 1, proof["before"])
        archive = Archive(before, Link(proof["last"], proof["after"]), entries)
        list(chain.check(entries, before, lambda hash: None))  # reads every member
        return archive
    except OSError as exc:
        raise NotAnArchive(f"{path} cannot be read ({os.strerror(exc.errno or 0)}).") from None
    except (ValueError, KeyError, TypeError):
        raise NotAnArchive(f"{path} is not an archive of audit events.") from None


def faults(archive: Archive) -> Iterator[str]:
    """Check an archive in itself and against the log. Yield a sentence for each fault."""
    places = {entry["hash"]: entry["place"] for entry in archive.entries}
    yield from chain.check(archive.entries, archive.before, places.get)
    end = archive.entries[-1] if archive.entries else None
    if end is None or Link(end["place"], end["hash"]) != archive.last:
        yield f"The archive does not end with event {archive.last.place} of its first line."
    known = AuditEvent.objects.filter(action=AuditEvent.ARCHIVED, detail__last=archive.last.place)
    hashes = {event.detail.get("after") for event in known}
    if hashes and archive.last.hash not in hashes:
        yield f"The log names another hash for event {archive.last.place} than the archive."
