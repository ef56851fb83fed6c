"""Restore a backup into an empty database.

All rows are written in one transaction, so a restore happens completely or not at all. Afterwards
the database is as if the server had been killed when the backup was made. So open attempts, TXT
records and deliveries go on by the rules for that (docs/architecture.md, "How a turn works").
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import DatabaseError, transaction
from django.views.decorators.debug import sensitive_variables

from accounts import audit, chain
from accounts.models import User
from backups import tables
from backups.contents import Contents
from backups.encrypted import BackupProblem
from backups.reading import Reading, Row
from devices.tokens import accept_any_once
from keystore import masterkeys
from keystore.envelope import CannotOpen, check_opens
from keystore.models import KeyWrap


class Restoring(Reading):
    """Stores each row. Call this inside a transaction."""

    def begin(self, held: Contents) -> None:
        refuse_other_version(held)
        tables.empty_made_by_migrate()

    def store(self, label: str, batch: list[Row]) -> None:
        try:
            tables.insert(tables.tables()[label], batch)
        except (DatabaseError, ValidationError, ValueError, TypeError) as exc:
            raise BackupProblem(
                f"A row of {label} cannot be stored ({type(exc).__name__}). Nothing was restored."
            ) from exc


def restore(path: Path, keys: Sequence[Any], actor: str) -> Contents:
    """Restore the backup and return what it held. Raise BackupProblem, and change nothing then.

    The database must be migrated and otherwise empty.
    """
    refuse_used()
    try:
        # A failed COMMIT removes the master keys again.
        with ExitStack() as undo, transaction.atomic(durable=True):
            held = Restoring(path).read(keys)
            tables.continue_ids()
            accept_any_once()
            _note(held, actor)
            undo.enter_context(restored_master_keys(held))
            refuse_closed(path)
    except DatabaseError as exc:  # a key that leads nowhere is found at the end
        raise BackupProblem(
            f"The rows of {path} do not fit together ({type(exc).__name__}). Nothing was restored."
        ) from exc
    return held


def refuse_used() -> None:
    """Raise BackupProblem unless the database is migrated and has no rows of its own."""
    if not tables.migrations():
        raise BackupProblem("The database is not migrated. Run manage.py migrate first.")
    used = [
        label
        for label, table in tables.tables().items()
        if label not in tables.MADE_BY_MIGRATE and not tables.is_empty(table)
    ]
    if used:
        raise BackupProblem(
            f"The database is in use: it has rows in {', '.join(used[:5])}. A restore needs an "
            "empty database, and deletes none. Name a new one in DATABASE_URL, or move the file "
            "of SQLite away. Then run manage.py migrate."
        )


def refuse_other_version(held: Contents) -> None:
    here = {label: tables.columns(table) for label, table in tables.tables().items()}
    if held.migrations != tables.migrations() or held.columns != here:
        raise BackupProblem(
            f"The backup of {held.made_at} was made by another version of certctrl. Install that "
            "version, restore the backup with it, and upgrade then."
        )


@contextmanager
@sensitive_variables()
def restored_master_keys(held: Contents) -> Iterator[None]:
    """Write the file of MASTER_KEYS_PATH if it is missing. Remove it again if the body raises."""
    file = masterkeys.file_keys()
    if not file or file.path.exists() or not held.master_keys:
        yield
        return
    file.create(held.master_keys.values())
    try:
        yield
    except BaseException:
        file.path.unlink()
        raise


def refuse_closed(path: Path) -> None:
    """Raise BackupProblem unless each master key that the secrets need opens one of them."""
    wraps = KeyWrap.objects.filter(master_key_id__isnull=False)
    for key_id in wraps.order_by().values_list("master_key_id", flat=True).distinct():
        wrap = wraps.filter(master_key_id=key_id).select_related("envelope").earliest("pk")
        try:
            check_opens(wrap)
        except CannotOpen as problem:
            where = "MASTER_KEYS_PATH" if settings.MASTER_KEYS_PATH else "MASTER_KEYS"
            raise BackupProblem(
                f"Nothing was restored, because the secrets could not be opened afterwards. "
                f"{problem.what} {path} has its master keys. Set {where} as the lost server had "
                "it, or set MASTER_KEYS_PATH to a file that does not exist yet."
            ) from None


def _note(held: Contents, actor: str) -> None:
    """Write into the audit log from which place on the chain may have had other events."""
    owner = User.objects.order_by("pk").first()
    if owner:
        head = chain.head()
        facts: dict[str, Any] = {"made_at": held.made_at, "place": head.place, "hash": head.hash}
        audit.record(owner, actor, "backup.restored", "backup", **facts)
