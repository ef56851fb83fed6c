"""Certificates by the hundred thousand, written straight into PostgreSQL."""

from datetime import datetime

from django.db import connection

from issuance.models import Certificate

# What differs between them; `n` counts from 1.
DIFFERING = {
    "domain": "'n' || n || '.example.com'",
    "names_key": "md5('names' || n || random())",
    "public_id": "left(md5('public' || n || random()), 20)",
    "ask": "md5('ask' || n || random())",
    "renew_at": "%(at)s + n * interval '1 second'",
    "expires_at": "%(at)s + n * interval '1 second' + interval '30 days'",
}


def certificates(like: Certificate, number: int, at: datetime) -> None:
    """So many copies of a certificate, which renew one a second from `at` on."""
    columns = [field.column for field in Certificate._meta.concrete_fields if field.column != "id"]
    values = ", ".join(DIFFERING.get(column, column) for column in columns)
    table = Certificate._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {table},"
            " generate_series(1, %(number)s) AS n WHERE id = %(like)s",
            {"at": at, "number": number, "like": like.pk},
        )


def settle() -> None:
    """As autovacuum leaves the tables: an index alone may answer, and the planner knows what there is."""
    with connection.cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE) issuance_certificate, issuance_issuance")
