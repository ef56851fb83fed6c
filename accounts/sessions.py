"""Sessions in the database, stored under a hash of their id.

A reader of the table, or of a backup, cannot use the sessions.
"""

import hashlib
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any

import structlog
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.backends import ModelBackend
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.db import OperationalError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from accounts import audit
from accounts.models import Session, User
from certctrl import clock, errors, retention
from certctrl.sentences import sentence as _
from certctrl.statements import Parameter, select

log = structlog.get_logger()

SEEN_EVERY = timedelta(minutes=5)  # `seen_at` is written at most so often
AGENT = 200  # characters of the User-Agent that are kept
MOST_SHOWN = 200  # sessions in a list


def digest_of(session_key: str) -> str:
    """Return the first 40 hex digits of a SHA-256, because the column holds 40 characters.

    A session id has about 165 random bits.
    """
    return hashlib.sha256(f"session:{session_key}".encode()).hexdigest()[:40]


@select
def _open(digest: Parameter, now: Parameter) -> QuerySet[Session]:
    return Session.objects.filter(session_key=digest, expire_date__gt=now)


@select
def _user(pk: Parameter) -> QuerySet[User]:
    return User.objects.filter(pk=pk)


class Users(ModelBackend):
    """Django's backend, with one compiled statement for the user of each request."""

    def get_user(self, user_id: int) -> User | None:
        found: list[User] = _user(pk=user_id)
        return found[0] if found and self.user_can_authenticate(found[0]) else None


class SessionStore(DatabaseStore):
    """Django's store, with the digest in the table. The cookie and `session_key` have the id."""

    row: Session | None = None

    @classmethod
    def get_model_class(cls) -> type[Session]:
        return Session

    def _rows(self) -> Any:
        return self.model.objects.filter(
            session_key=digest_of(self.session_key or ""), expire_date__gt=timezone.now()
        )

    def _get_session_from_db(self) -> Any:
        digest = digest_of(self.session_key or "")
        self.row = next(iter(_open(digest=digest, now=timezone.now())), None)
        if self.row is None:
            self._session_key = None
        return self.row

    async def _aget_session_from_db(self) -> Any:
        row = await self._rows().afirst()
        if row is None:
            self._session_key = None
        self.row = row
        return row

    def exists(self, session_key: str) -> bool:
        return super().exists(digest_of(session_key))

    async def aexists(self, session_key: str) -> bool:
        return bool(await super().aexists(digest_of(session_key)))

    def create_model_instance(self, data: dict[str, Any]) -> Any:
        return filled(super().create_model_instance(data), data)

    async def acreate_model_instance(self, data: dict[str, Any]) -> Any:
        return filled(await super().acreate_model_instance(data), data)

    def delete(self, session_key: str | None = None) -> None:
        if key := session_key or self.session_key:
            super().delete(digest_of(key))

    async def adelete(self, session_key: str | None = None) -> None:
        if key := session_key or self.session_key:
            await super().adelete(digest_of(key))


def filled(row: Any, data: dict[str, Any]) -> Any:
    """Return the row with the columns that a list of sessions reads."""
    row.session_key = digest_of(row.session_key)
    row.user_id = int(data[SESSION_KEY]) if SESSION_KEY in data else None
    row.ip = data.get("ip")
    row.agent = data.get("agent", "")
    row.seen_at = clock.now()
    return row


class NoteUse:
    """Middleware that writes when a session was last used, at most once per `SEEN_EVERY`."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        row: Session | None = getattr(request.session, "row", None)
        now = clock.now()
        if row and not now - SEEN_EVERY < row.seen_at <= now:
            try:
                Session.objects.filter(pk=row.pk).update(seen_at=now)
            except OperationalError as exc:
                # For example, the disk is full. Requests that only read must still be answered.
                log.warning("session.use_not_noted", error=type(exc).__name__)
        return response


def sessions_of(user: User) -> QuerySet[Session]:
    """Return the open sessions of a user, the latest used first."""
    return user.sessions.filter(expire_date__gt=clock.now()).order_by("-seen_at")


def open_of(digests: Collection[str]) -> set[str]:
    """Return those of the digests whose session is open, and whose user is active."""
    rows = Session.objects.filter(session_key__in=digests, expire_date__gt=clock.now())
    return set(rows.filter(user__is_active=True).values_list("session_key", flat=True))


def is_current(request: HttpRequest, session: Session) -> bool:
    return session.session_key == digest_of(request.session.session_key or "")


def end(user: User, public_id: str) -> None:
    """End a session of the user. Raise NotFound if there is none with this id."""
    found = (
        user.sessions.filter(session_key__startswith=public_id) if len(public_id) == 16 else None
    )
    if not found or not found.delete()[0]:
        raise errors.NotFound(_("There is no such session, or it has ended."))
    audit.note(user, "session.ended", f"session:{public_id}")


def end_all(user: User) -> int:
    """End all sessions of the user. Return how many ended."""
    ended: int = user.sessions.all().delete()[0]
    if ended:
        audit.note(user, "session.all_ended", f"user:{user.pk}", sessions=ended)
    return ended


def end_others(request: HttpRequest, user: User) -> int:
    """End all sessions of the user but the one of this request. Return how many ended."""
    mine = digest_of(request.session.session_key or "")
    ended: int = user.sessions.exclude(session_key=mine).delete()[0]
    if ended:
        audit.note(user, "session.others_ended", f"user:{user.pk}", sessions=ended)
    return ended


def prune() -> None:
    """Delete the sessions that have expired."""
    retention.delete(Session.objects.filter(expire_date__lt=timezone.now()))
