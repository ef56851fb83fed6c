"""Rotating the master key while the server runs: data keys are wrapped anew, ciphertexts stay as they are.

Every process looks at the key file before each use, so all wrap with the new key from the moment it is in place. One
that had read the file just before may still write a wrap under the old key; that opens until the old key is dropped,
and dropping excludes such writers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from django.db import connection, transaction

from keystore import masterkeys
from keystore.envelope import CannotOpen, rewrap
from keystore.masterkeys import aes
from keystore.masterkeys.file import FileKeys, Intent
from keystore.models import KeyWrap

BATCH = 500


@dataclass
class Outcome:
    """How many wraps were moved to the current master key, and why others could not be."""

    moved: int = 0
    stuck: dict[int, str] = field(default_factory=dict)


def begin(file: FileKeys, intent: Intent) -> str:
    """Put a new master key first and return its id; that of a rotation which was interrupted, where there is one."""
    current = masterkeys.current().id
    if intent.read() == current:
        return current
    new = aes.generate(_next_id())
    intent.write(new.id)
    file.put_first(new)
    return new.id


def rewrap_all() -> Outcome:
    """Move every wrap to the current master key. Safe beside a running server, and to be interrupted and run again."""
    outcome = Outcome()
    # A pass may miss what a process with the old key wrote meanwhile: the last one has found nothing to move.
    while _pass(outcome):
        outcome.stuck.clear()
    return outcome


def drop_unneeded(file: FileKeys) -> set[str]:
    """Remove from the file, for good, the old keys that no wrap needs, and return their ids.

    While we look, nobody writes a wrap: who wrote one before has committed it, so that we see it; who writes one
    afterwards looks at the file again (envelope._keep_up). So no wrap ever loses its key.
    """
    with transaction.atomic():
        _exclude_writers()
        known = list(file.read_again())
        kept = {known[0], *needed_ids()}
        dropped = {key_id for key_id in known if key_id not in kept}
        if dropped:
            file.keep_only(kept)
    return dropped


def needed_ids() -> set[str]:
    """The master keys that some wrap needs."""
    wraps = KeyWrap.objects.filter(master_key_id__isnull=False)
    return {str(key_id) for key_id in wraps.values_list("master_key_id", flat=True).distinct()}


def _pass(outcome: Outcome) -> int:
    moved = 0
    for wrap in _stale():
        try:
            moved += rewrap(wrap)
        except CannotOpen as exc:
            outcome.stuck[wrap.pk] = exc.what
    outcome.moved += moved
    return moved


def _stale() -> Iterator[KeyWrap]:
    """Wraps that are not under the current key, oldest first, in batches that hold no transaction open."""
    last = 0
    others = KeyWrap.objects.filter(master_key_id__isnull=False).exclude(
        master_key_id=masterkeys.current().id
    )
    while batch := list(
        others.filter(pk__gt=last).select_related("envelope").order_by("pk")[:BATCH]
    ):
        yield from batch
        last = batch[-1].pk


def _exclude_writers() -> None:
    """Until the transaction ends. SQLite's transactions exclude each other's writes anyhow (IMMEDIATE)."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            # Whoever must wait behind us waits as long: rather give up than hold up the server.
            cursor.execute("SET LOCAL lock_timeout = '5s'")
            cursor.execute("LOCK TABLE keystore_keywrap IN SHARE ROW EXCLUSIVE MODE")


def _next_id() -> str:
    """Above every id that is known or in use, so that an id never stands for two keys."""
    ids = {*masterkeys.all_keys(), *needed_ids()}
    return str(1 + max((int(key_id) for key_id in ids if key_id.isdecimal()), default=0))
