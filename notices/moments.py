"""The time formats of notices, in UTC."""

from datetime import UTC, datetime


def for_people(at: datetime) -> str:
    """Return the time as in this example: 2026-03-01 12:00 UTC"""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def for_programs(at: datetime) -> str:
    """Return the time as in this example: 2026-03-01T12:00:00Z (RFC 3339)"""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
