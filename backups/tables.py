"""The tables of a backup, and their rows as JSON. SQLite and PostgreSQL give the same JSON."""

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.apps import apps
from django.db import connection, models
from django.db.migrations.recorder import MigrationRecorder

from backups.reading import BATCH, Row

# People log in again after a restore, because a session may have been ended since the backup.
# Triggers of the table of certificates write the other two.
LEFT_OUT = {"accounts.session", "issuance.certificatecount", "issuance.namepart"}
# `migrate` fills these tables. A restore replaces their rows.
MADE_BY_MIGRATE = ("auth.permission", "contenttypes.contenttype")
# Ids that were given after the backup are not given again, as far as there were not more.
IDS_LEFT_OUT = 100_000

Table = type[models.Model]


def tables() -> dict[str, Table]:
    """Return every table of the database that a backup holds, by its label."""
    found = {
        model._meta.label_lower: model
        for model in apps.get_models(include_auto_created=True)
        if model._meta.managed and not model._meta.proxy
    }
    return {label: found[label] for label in sorted(set(found) - LEFT_OUT)}


def columns(table: Table) -> list[str]:
    return [field.attname for field in stored(table)]


def stored(table: Table) -> list[Any]:
    """Return the fields that are written. The database computes the others."""
    return [field for field in table._meta.concrete_fields if not field.generated]


def migrations() -> list[str]:
    """Return the migrations of the database, as `app.name`."""
    applied = MigrationRecorder(connection).applied_migrations()
    return sorted(".".join(each) for each in applied)


def rows(table: Table) -> Iterator[bytes]:
    """Yield the rows as JSON, in the order of their ids. A batch is in memory at a time."""
    wanted = table._base_manager.order_by("pk")
    batch = list(wanted.values_list("pk", *columns(table))[:BATCH])
    while batch:
        for _, *values in batch:
            yield encode(values)
        batch = list(wanted.filter(pk__gt=batch[-1][0]).values_list("pk", *columns(table))[:BATCH])


def encode(content: Any) -> bytes:
    """Return a line of a backup."""
    return json.dumps(content, default=_encoded, separators=(",", ":")).encode()


def _encoded(value: Any) -> Any:
    match value:
        case bytes() | memoryview():
            return base64.b64encode(value).decode()
        case datetime():
            return value.isoformat()  # with microseconds
        case UUID():
            return str(value)
    raise TypeError(f"A backup has no form for {type(value).__name__}.")


def insert(table: Table, batch: Sequence[Row]) -> None:
    """Store rows exactly as they were. No default, no `auto_now` and no signal changes them."""
    fields = stored(table)
    decoders = [_decoder(field) for field in fields]
    quote: Any = connection.ops.quote_name
    names = ", ".join(quote(field.column) for field in fields)
    slots = ", ".join("%s" for _ in fields)
    into = f"{quote(table._meta.db_table)} ({names}) VALUES ({slots})"
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {into}",
            [
                [
                    field.get_db_prep_save(decode(value), connection)
                    for field, decode, value in zip(fields, decoders, row, strict=True)
                ]
                for row in batch
            ],
        )


def _decoder(field: Any) -> Callable[[Any], Any]:
    if isinstance(field, models.JSONField):
        return lambda value: value
    if isinstance(field, models.BinaryField):
        return lambda value: None if value is None else base64.b64decode(value)
    to_python: Callable[[Any], Any] = field.to_python
    return to_python


def is_empty(table: Table) -> bool:
    return not table._base_manager.exists()


def empty_made_by_migrate() -> None:
    """Delete the rows that `migrate` made, so that those of the backup get the same ids."""
    for label in MADE_BY_MIGRATE:
        made: Any = tables()[label]._base_manager.all()
        made._raw_delete(connection.alias)


def continue_ids() -> None:
    """Let new rows get ids beyond all that the lost server gave, also after the backup.

    People and programs have kept such ids. The id of a lost row must not name another row.
    """
    for table in tables().values():
        pk = table._meta.pk
        if isinstance(pk, models.AutoField):
            last = table._base_manager.aggregate(last=models.Max("pk"))["last"] or 0
            _continue_after(table._meta.db_table, pk.column, last + IDS_LEFT_OUT)


def _continue_after(table: str, column: Any, last: int) -> None:
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            quoted = connection.ops.quote_name(table)
            cursor.execute(
                "SELECT setval(pg_get_serial_sequence(%s, %s), %s)", [quoted, column, last]
            )
        else:
            cursor.execute("DELETE FROM sqlite_sequence WHERE name = %s", [table])
            cursor.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (%s, %s)", [table, last])
