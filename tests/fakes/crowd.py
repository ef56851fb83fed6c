"""Hundreds of thousands of certificates, written directly into PostgreSQL."""

from datetime import datetime

from django.db import connection

from issuance.models import Certificate

# The columns that differ between the copies, as SQL. `n` counts from 1.
DIFFERING = {
    "domain": "'n' || n || '.example.com'",
    "names": "jsonb_build_array('n' || n || '.example.com')",
    "public_id": "left(md5('public' || n || random()), 20)",
    "request_digest": "md5('ask' || n || random())",
    "renew_at": "%(at)s + n * interval '1 second'",
    "expires_at": "%(at)s + n * interval '1 second' + interval '30 days'",
}


def certificates(like: Certificate, number: int, at: datetime) -> None:
    """Write `number` copies of a certificate. From `at` on, one is due for renewal each second."""
    written = [field for field in Certificate._meta.concrete_fields if not field.generated]
    columns = [field.column for field in written if field.column != "id"]
    values = ", ".join(DIFFERING.get(column, column) for column in columns)
    table = Certificate._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {table},"
            " generate_series(1, %(number)s) AS n WHERE id = %(like)s",
            {"at": at, "number": number, "like": like.pk},
        )


def settle() -> None:
    """Vacuum and analyze the tables, as autovacuum does.

    PostgreSQL can then use index-only scans, and the planner has statistics.
    """
    with connection.cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE) issuance_certificate, issuance_issuance")
