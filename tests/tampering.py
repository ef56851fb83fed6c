"""Changes of the audit log by someone who may drop the triggers of the database."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from django.db import connection

TRIGGERS = import_module("accounts.migrations.0001_initial")


@contextmanager
def without_triggers() -> Iterator[None]:
    is_postgresql = connection.vendor == "postgresql"
    off = ["SET session_replication_role = replica"] if is_postgresql else TRIGGERS.ALLOW["sqlite"]
    on = ["SET session_replication_role = DEFAULT"] if is_postgresql else TRIGGERS.FORBID["sqlite"]
    with connection.cursor() as cursor:
        for statement in off:
            cursor.execute(statement)
        yield
        for statement in on:
            cursor.execute(statement)


def tamper(*statements: str, params: Any = None) -> None:
    """Run SQL that the triggers would refuse."""
    with without_triggers(), connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement, params)
