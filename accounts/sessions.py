"""Sessions in the database, stored under a hash of their id.

A reader of the table, or of a backup, cannot use the sessions.
"""

import hashlib
from typing import Any

from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.utils import timezone

from certctrl import retention


def digest_of(session_key: str) -> str:
    """Return the first 40 hex digits of a SHA-256, because the column holds 40 characters.

    A session id has about 165 random bits.
    """
    return hashlib.sha256(f"session:{session_key}".encode()).hexdigest()[:40]


class SessionStore(DatabaseStore):
    """Django's store, with the digest in the table. The cookie and `session_key` have the id."""

    def _rows(self) -> Any:
        return self.model.objects.filter(
            session_key=digest_of(self.session_key or ""), expire_date__gt=timezone.now()
        )

    def _get_session_from_db(self) -> Any:
        row = self._rows().first()
        if row is None:
            self._session_key = None
        return row

    async def _aget_session_from_db(self) -> Any:
        row = await self._rows().afirst()
        if row is None:
            self._session_key = None
        return row

    def exists(self, session_key: str) -> bool:
        return super().exists(digest_of(session_key))

    async def aexists(self, session_key: str) -> bool:
        return bool(await super().aexists(digest_of(session_key)))

    def create_model_instance(self, data: dict[str, Any]) -> Any:
        row = super().create_model_instance(data)
        row.session_key = digest_of(row.session_key)
        return row

    async def acreate_model_instance(self, data: dict[str, Any]) -> Any:
        row = await super().acreate_model_instance(data)
        row.session_key = digest_of(row.session_key)
        return row

    def delete(self, session_key: str | None = None) -> None:
        if key := session_key or self.session_key:
            super().delete(digest_of(key))

    async def adelete(self, session_key: str | None = None) -> None:
        if key := session_key or self.session_key:
            await super().adelete(digest_of(key))


def prune() -> None:
    """Delete the sessions that have expired."""
    retention.delete(SessionStore.get_model_class().objects.filter(expire_date__lt=timezone.now()))
