"""Empties the database after a test that has committed."""

from importlib import import_module
from typing import Any

from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.db import connection, transaction

from issuance.models import CertificateCount

MIGRATED = (ContentType, Permission)  # `migrate` fills their tables


def empty_database() -> None:
    """Leave the database as `migrate` makes it.

    Django's `flush` empties every table and makes the rows of `migrate` again. That takes longer
    than most tests. This writes only to the tables that hold rows.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        if filled := filled_tables(cursor):
            before, after = unguarded()
            for statement in (*before, *map(delete, filled), *after):
                cursor.execute(statement)


def filled_tables(cursor: Any) -> list[str]:
    """Return the tables to empty. That of the counts is last, because triggers fill it."""
    kept = {model._meta.db_table for model in MIGRATED}
    tables = {*connection.introspection.django_table_names(include_views=False)} - kept
    looks = (f"SELECT '{each}' WHERE EXISTS (SELECT 1 FROM {each})" for each in tables)
    cursor.execute(" UNION ALL ".join(looks))
    filled = [name for (name,) in cursor.fetchall()]
    counts = CertificateCount._meta.db_table
    return [*(each for each in filled if each != counts), *([counts] if filled else [])]


def unguarded() -> tuple[list[str], list[str]]:
    """Return the statements before and after the rows of the audit log can be deleted."""
    if connection.vendor == "postgresql":
        return ["SET LOCAL session_replication_role = replica"], []  # no trigger, no foreign key
    migration = import_module("accounts.migrations.0001_initial")
    return migration.ALLOW["sqlite"], migration.FORBID["sqlite"]


def delete(table: str) -> str:
    return f"DELETE FROM {table}"
