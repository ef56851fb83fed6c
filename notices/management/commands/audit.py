"""The command `audit`: check the audit log, and sign its head."""

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts import archive, chain
from accounts.archive import Archive, NotAnArchive
from accounts.models import AuditEvent
from keystore import heads
from keystore.envelope import CannotOpen
from keystore.heads import Head
from notices.models import Notice


class Command(BaseCommand):
    help = "Find audit events that were changed, removed or reordered, or print a signed head."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        verify = actions.add_parser("verify", help="check the log; exit with 1 if it has a fault")
        verify.add_argument(
            "--head",
            action="append",
            default=[],
            metavar="FILE",
            help="check a head that was saved: a notice by mail or webhook, or `audit head`",
        )
        verify.add_argument(
            "--archive",
            action="append",
            default=[],
            metavar="FILE",
            help="check an archive of removed events too",
        )
        actions.add_parser("head", help="print the signed head of the log, as JSON")

    def handle(
        self,
        *args: Any,
        action: str,
        head: list[str] | None = None,
        archive: list[str] | None = None,
        **options: Any,
    ) -> None:
        try:
            if action == "head":
                self._print_head()
            else:
                self._verify(head or [], archive or [])
        except CannotOpen as exc:
            raise CommandError(exc.what) from None

    def _print_head(self) -> None:
        chain.seal()
        head = heads.sign()
        if head is None:
            raise CommandError("The audit log has no event yet.")
        self.stdout.write(json.dumps(head))

    def _verify(self, head_files: list[str], archive_files: list[str]) -> None:
        try:
            archives = [archive.read(each) for each in archive_files]
        except NotAnArchive as exc:
            raise CommandError(exc.what) from None
        saved = [self._head_in(each) for each in head_files]
        count = 0
        for fault in _faults(archives, saved):
            count += 1
            self.stdout.write(fault)
        waiting = AuditEvent.objects.filter(place=None).count()
        if waiting:
            self.stdout.write(f"{waiting} events are not sealed yet, so they were not checked.")
        if count:
            raise CommandError(f"The audit log was tampered with. Faults: {count}.")
        self.stdout.write(f"The audit log is intact up to event {chain.head().place}.")

    def _head_in(self, file: str) -> Head:
        try:
            head = heads.find(Path(file).read_text(errors="replace"))
        except OSError as exc:
            raise CommandError(f"{file} cannot be read ({exc.strerror}).") from None
        if head is None:
            raise CommandError(f"{file} has no head of an audit log.")
        if not heads.is_genuine(head):
            raise CommandError(f"The head in {file} has no valid signature of this server.")
        return head


def _faults(archives: list[Archive], saved: list[Head]) -> Iterator[str]:
    for each in archives:
        yield from archive.faults(each)
    yield from chain.faults()
    hashes = {entry["place"]: entry["hash"] for each in archives for entry in each.entries}
    sent = Notice.objects.filter(kind=Notice.Kind.AUDIT_HEAD).order_by("pk")
    kept = [notice.data["head"] for notice in sent.iterator()]
    in_log = chain.first_place()
    for head in saved:
        yield from _fault_of(head, hashes, in_log)
    for head in kept:
        if head["place"] >= in_log:
            yield from _fault_of(head, hashes, in_log)


def _fault_of(head: Head, archived: dict[int, str], in_log: int) -> Iterator[str]:
    """Yield a sentence if the log does not have the event that the head names."""
    place = head["place"]
    found = archived.get(place) or chain.hash_at(place)
    if found is None and place < in_log:
        yield f"Event {place} of the head is not in the log. Give its archive with --archive."
    elif found is None:
        end = chain.head().place
        yield f"A head of {head['at']} names event {place}, but the log ends with event {end}."
    elif found != head["hash"]:
        yield (
            f"Event {place} is not the one that the head of {head['at']} names. The log was "
            "rewritten at this event or before it."
        )
