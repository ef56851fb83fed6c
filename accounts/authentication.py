"""Who asks: a session cookie, guarded without a CSRF token, or an API key."""

import hashlib
from datetime import timedelta

import structlog
from django.conf import settings
from django.db import OperationalError
from django.db.models import Q
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts.models import ApiKey, User
from accounts.permissions import SAFE
from certctrl import clock, errors

log = structlog.get_logger()

USE_IS_NOTED_EVERY = timedelta(minutes=1)


class JSONSessionAuthentication(BaseAuthentication):
    """The session cookie. Unsafe requests must be JSON and must not come from another site, cookie or not: so nobody
    is logged in by a foreign page either. Raises Forbidden (403) and NotJSON (415)."""

    def authenticate(self, request: Request) -> tuple[User, None] | None:
        if request.method not in SAFE:
            refuse_other_sites(request)
            refuse_forms(request)
        user = request._request.user
        return (user, None) if isinstance(user, User) and user.is_active else None


def refuse_other_sites(request: Request) -> None:
    """A browser says where a request comes from (Fetch standard: Origin; Fetch Metadata: Sec-Fetch-Site); curl does
    not. Another host of the same site is another site here: it is somebody else's page."""
    origin = request.headers.get("Origin", "")
    if origin in settings.TRUSTED_ORIGINS:
        return
    foreign_origin = origin and origin.partition("://")[2].lower() != request.get_host().lower()
    if foreign_origin or request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        raise errors.Forbidden("This request comes from another site; TRUSTED_ORIGINS names those that may send it.")


def refuse_forms(request: Request) -> None:
    """HTML forms cannot send application/json, and always say what they send; a body that does not say is refused."""
    content_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    empty = request.headers.get("Content-Length", "0") in ("", "0") and "Transfer-Encoding" not in request.headers
    if content_type != "application/json" and (content_type or not empty):
        raise errors.NotJSON("Send JSON, with the header Content-Type: application/json.")


class ApiKeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer ak_...`; `request.auth` is then the ApiKey. Raises Unauthorized (401, 5018)."""

    def authenticate(self, request: Request) -> tuple[User, ApiKey] | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip().startswith(ApiKey.MARK):
            return None
        key = ApiKey.objects.usable().filter(digest=digest_of(token.strip())).select_related("owner").first()
        if key is None or not key.owner.is_active:
            raise errors.Unauthorized("This API key is unknown, expired or revoked; make a new one.")
        note_use(key)
        return key.owner, key

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="certctrl"'


def digest_of(token: str) -> str:
    """SHA-256, in hex. A token has 256 random bits: nothing slower is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


def note_use(key: ApiKey) -> None:
    """Write `last_used_at`, at most once a minute."""
    now = clock.now()
    if key.last_used_at is None or key.last_used_at <= now - USE_IS_NOTED_EVERY:
        stale = Q(last_used_at=None) | Q(last_used_at__lte=now - USE_IS_NOTED_EVERY)
        try:
            ApiKey.objects.filter(stale, pk=key.pk).update(last_used_at=now)
        except OperationalError as exc:  # a full disk, say: what only reads is answered all the same
            log.warning("apikey.use_not_noted", error=type(exc).__name__)
