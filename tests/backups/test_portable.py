"""A backup of one database is restored into the other."""

from pathlib import Path
from typing import Any

import pytest

from accounts import chain
from backups import making
from issuance.models import Certificate
from tests.backups.conftest import all_rows, in_sqlite
from tests.emptying import empty_database

pytestmark = [pytest.mark.postgres_only, pytest.mark.slow, pytest.mark.django_db(transaction=True)]


def test_postgresql_to_sqlite_and_back(
    world: Any, account: Any, credential: Any, tmp_path: Path, recovery_key: Any, restore: Any
) -> None:
    world.create(account, credential)
    world.settle()
    chain.seal()
    making.make(tmp_path / "first", [recovery_key.to_public()], "operator")
    before = all_rows()
    with in_sqlite(tmp_path / "db.sqlite3"):
        restore(tmp_path / "first")
        assert all_rows() == before
        assert Certificate.objects.get().current_id
        making.make(tmp_path / "second", [recovery_key.to_public()], "operator")
    empty_database()
    restore(tmp_path / "second")
    assert all_rows() == before
    chain.seal()
    assert list(chain.faults()) == []
