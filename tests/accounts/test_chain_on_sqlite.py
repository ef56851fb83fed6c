"""SQLite can replace a row by another. Its triggers refuse that for sealed events."""

import pytest

from accounts import chain
from accounts.models import AuditEvent
from tests.accounts.test_chain import TABLE, record, refused

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    "sql",
    [
        f"UPDATE OR REPLACE {TABLE} SET place = 3, hash = 'x', previous_hash = 'x' "
        "WHERE place IS NULL",
        f"REPLACE INTO {TABLE} SELECT id, at, 'bob', action, object, ip, detail, NULL, '', '', "
        f"owner_id FROM {TABLE} WHERE place = 3",
        f"REPLACE INTO {TABLE} SELECT 99, at, 'bob', action, object, ip, detail, 3, 'x', 'x', "
        f"owner_id FROM {TABLE} WHERE place = 3",
    ],
)
def test_sqlite_refuses_to_replace_a_sealed_event(alice, sql):
    record(alice, 5)
    chain.seal()
    record(alice)
    refused(sql)
    assert AuditEvent.objects.count() == 6
