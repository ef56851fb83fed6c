"""How notices write a moment, in UTC."""

from datetime import UTC, datetime


def for_people(at: datetime) -> str:
    """2026-03-01 12:00 UTC"""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def for_programs(at: datetime) -> str:
    """2026-03-01T12:00:00Z (RFC 3339)"""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
