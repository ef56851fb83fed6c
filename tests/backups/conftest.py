"""A recovery key, and a server that can be lost."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyrage
import pytest
from django.core.management import call_command
from django.db import connection, connections

from backups import encrypted, making, restoring, tables
from backups.contents import Contents
from certctrl.settings import SQLITE_OPTIONS
from tests.keystore.conftest import key_file

__all__ = ["key_file"]


@pytest.fixture
def recovery_key() -> Any:
    return pyrage.x25519.Identity.generate()


@pytest.fixture
def recovery_file(tmp_path: Path, recovery_key: Any) -> Path:
    """The recovery key as age-keygen writes it."""
    path = tmp_path / "recovery.key"
    path.write_text(f"# created: 2026\n# public key: {recovery_key.to_public()}\n{recovery_key}\n")
    return path


@pytest.fixture
def backup(tmp_path: Path, recovery_key: Any) -> Path:
    """The path of a backup of the database as it is."""
    path = tmp_path / "certctrl.backup"
    making.make(path, [recovery_key.to_public()], "operator")
    return path


@pytest.fixture
def restore(recovery_key: Any) -> Callable[[Path], Contents]:
    return lambda path: restoring.restore(path, [recovery_key], "operator")


@contextmanager
def in_sqlite(path: Path) -> Iterator[None]:
    """Use a migrated file of SQLite instead of the database of the tests."""
    before, settings = connections["default"], connections.settings["default"]
    connections.settings["default"] = settings | {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(path),
        "OPTIONS": SQLITE_OPTIONS,
    }
    connections["default"] = connections.create_connection("default")
    try:
        call_command("migrate", verbosity=0)
        yield
    finally:
        connections["default"].close()
        connections["default"] = before
        connections.settings["default"] = settings


def all_rows() -> dict[str, list[bytes]]:
    """Return the rows of each table that a backup holds, except the audit events of backups."""
    found = {label: list(tables.rows(table)) for label, table in tables.tables().items()}
    return found | {
        "accounts.auditevent": [
            row for row in found["accounts.auditevent"] if b"backup." not in row
        ]
    }


def cut(path: Path, at: int) -> Path:
    """Return a copy of the file that ends early."""
    copy = path.with_name("cut")
    copy.write_bytes(path.read_bytes()[:at])
    return copy


def lines_of(path: Path, recovery_key: Any) -> list[bytes]:
    found: list[bytes] = []
    encrypted.read(path, [recovery_key], found.append)
    return found


def last_ids() -> dict[str, int]:
    """Return the last id of each table that has numbers as ids."""
    with connection.cursor() as cursor:
        found = {}
        for label, table in tables.tables().items():
            cursor.execute(f'SELECT max(id) FROM "{table._meta.db_table}"')
            found[label] = cursor.fetchone()[0] or 0
        return found
