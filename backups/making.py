"""Make a backup. It is one moment of the database, while the server goes on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.db import connection, transaction
from django.views.decorators.debug import sensitive_variables

from accounts import audit
from accounts.models import User
from backups import encrypted, tables
from backups.contents import PLACES, Contents
from certctrl import clock
from certctrl.environment import Environment
from keystore import masterkeys, rotation


@sensitive_variables()
def contents() -> Contents:
    """Return what a backup of now would hold. Raise MasterKeyProblem."""
    keys = masterkeys.all_keys()
    texts = {key_id: key.line() for key_id, key in keys.items()}
    found = tables.tables()
    return Contents(
        made_at=clock.now().isoformat(timespec="seconds"),
        migrations=tables.migrations(),
        columns={label: tables.columns(table) for label, table in found.items()},
        counts={label: table._base_manager.count() for label, table in found.items()},
        settings=given_settings(),
        master_keys={key_id: text for key_id, text in texts.items() if text},
        elsewhere=[key_id for key_id, text in texts.items() if not text],
        missing=sorted(rotation.needed_ids() - set(keys)),
    )


@sensitive_variables()
def given_settings() -> dict[str, str]:
    """Return the settings that this server was started with, except those of its machine."""
    return {name: value for name, value in Environment.given.items() if not name.startswith(PLACES)}


def make(path: Path, recipients: Sequence[Any], actor: str) -> Contents:
    """Write a backup into a new file, and return what it holds. Raise BackupProblem.

    The audit event is written first. So it is in the backup too.
    """
    owner = User.objects.order_by("pk").first()
    if owner:
        to = [str(each) for each in recipients]
        audit.record(owner, actor, "backup.made", "backup", file=str(path), recovery_keys=to)
    with snapshot():
        held = contents()
        encrypted.write(path, _lines(held), recipients)
    return held


@contextmanager
def snapshot() -> Iterator[None]:
    """See one moment of the database in all statements, and keep no writer waiting."""
    if connection.vendor == "postgresql":
        with transaction.atomic(durable=True), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield
        return
    with connection.cursor() as cursor:
        cursor.execute("BEGIN DEFERRED")  # Django's own transactions would lock out all writers
        try:
            yield
        finally:
            cursor.execute("ROLLBACK")


def _lines(held: Contents) -> Iterator[bytes]:
    yield tables.encode(held.as_json())
    count = 0
    for table in tables.tables().values():
        for row in tables.rows(table):
            yield row
            count += 1
    yield tables.encode({"end": count})
