"""Rotate the master key while the server runs.

Data keys are wrapped again. Ciphertexts do not change. Every process checks the key file before
each use. So all processes wrap with the new key once it is in the file. A process that read the
file just before may still write a wrap under the old key. Such a wrap opens until the old key is
dropped. While drop_unneeded() drops keys, it locks the table, so that no wrap is written.

Data keys move to a key in an HSM or a service, and back, in the same way.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

from django.db import connection, models, transaction

from accounts import audit
from accounts.models import User
from keystore import masterkeys
from keystore.envelope import CannotOpen, rewrap
from keystore.masterkeys import FileKeys, Intent, MasterKeyAway, aes
from keystore.models import KeyWrap

BATCH = 500


@dataclass
class Rewrapped:
    """The number of wraps moved to the current master key, and the errors of the others by id."""

    moved: int = 0
    stuck: dict[int, str] = field(default_factory=dict)


def start(actor: str) -> str:
    """Make a new master key in the file, and return the id of the key that wraps now.

    Without a file, none is made. The data keys are not wrapped again yet (`finish`). Raise
    MasterKeyProblem, for example while another process rotates.
    """
    file = masterkeys.file_keys()
    if not file:
        return masterkeys.current().id
    with file.locked() as intent:
        return begin(file, intent, actor)


def finish(actor: str) -> Rewrapped:
    """Wrap every data key with the current master key. The rotation is over when none is stuck.

    Raise MasterKeyProblem, for example while another process rotates.
    """
    file = masterkeys.file_keys()
    with file.locked() if file else nullcontext() as intent:
        outcome = rewrap_all(actor)
        if intent and not outcome.stuck:
            intent.write("")
    return outcome


def begin(file: FileKeys, intent: Intent, actor: str) -> str:
    """Put a new master key first in the file, and return the id of the key that wraps now.

    If the last rotation was interrupted after this step, its key wraps already. If the wrapping key
    is not the first one of the file, no key is made. Then the settings say which one wraps.
    """
    current = masterkeys.current().id
    if intent.read() == current or current != next(iter(file.keys())):
        return current
    new = aes.generate(_next_id())
    intent.write(new.id)
    _note(actor, "master_key.made", new.id)
    file.put_first(new)
    return new.id


def rewrap_all(actor: str) -> Rewrapped:
    """Move every wrap to the current master key.

    The server may run meanwhile. An interrupted run can be started again. Raise MasterKeyAway if
    the HSM or the service with a key does not answer.
    """
    outcome = Rewrapped()
    try:
        # A process with the old key may write wraps during a pass. Repeat until nothing is moved.
        while _pass(outcome):
            outcome.stuck.clear()
    finally:
        facts = {"wraps": outcome.moved, "failed": len(outcome.stuck)}
        _note(actor, "master_key.rotated", masterkeys.current().id, **facts)
    return outcome


def drop_unneeded(file: FileKeys, actor: str) -> set[str]:
    """Remove the old keys that no wrap needs from the file, permanently. Return their ids.

    The table of wraps is locked meanwhile. Earlier wraps are committed and visible here. A process
    that writes a wrap later reads the file again (envelope._keep_up). So no wrap loses its key.
    """
    with transaction.atomic():
        _exclude_writers()
        known = list(file.read_again())
        kept = {known[0], *needed_ids()}
        dropped = {key_id for key_id in known if key_id not in kept}
        for key_id in sorted(dropped):
            _note(actor, "master_key.dropped", key_id)
        if dropped:
            file.keep_only(kept)
    return dropped


def needed_ids() -> set[str]:
    """Return the ids of the master keys that wraps need."""
    return set(wraps_of_keys())


def wraps_of_keys() -> dict[str, int]:
    """Return the number of wraps of each master key that wraps need, by its id."""
    wraps = KeyWrap.objects.filter(master_key_id__isnull=False).order_by()
    counted = wraps.values_list("master_key_id").annotate(models.Count("pk"))
    return {str(key_id): count for key_id, count in counted}


def _pass(outcome: Rewrapped) -> int:
    before = outcome.moved
    for wrap in _stale():
        try:
            outcome.moved += rewrap(wrap)
        except CannotOpen as exc:
            if isinstance(exc.__cause__, MasterKeyAway):
                raise exc.__cause__ from None
            outcome.stuck[wrap.pk] = exc.what
    return outcome.moved - before


def _stale() -> Iterator[KeyWrap]:
    """Yield the wraps under other keys, oldest first. They are read in short transactions."""
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
    """Keep other transactions from writing wraps until this one ends.

    SQLite needs no lock, because only one IMMEDIATE transaction can write at a time.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            # Writers wait behind a waiting lock. After 5 seconds give up, so that they can go on.
            cursor.execute("SET LOCAL lock_timeout = '5s'")
            cursor.execute("LOCK TABLE keystore_keywrap IN SHARE ROW EXCLUSIVE MODE")


def _note(actor: str, action: str, key_id: str, **facts: int) -> None:
    """Write an event about a master key into the audit log of the first user."""
    owner = User.objects.order_by("pk").first()
    if owner:
        audit.record(owner, actor, action, f"master_key:{key_id}", None, **facts)


def _next_id() -> str:
    """Return an id above every id that is known or in use. An id never belongs to two keys."""
    ids = {*masterkeys.all_keys(), *needed_ids()}
    return str(1 + max((int(key_id) for key_id in ids if key_id.isdecimal()), default=0))
