"""Authentication by a session cookie or an API key.

Sessions are protected against requests from other sites without a CSRF token.
"""

import hashlib
from datetime import timedelta
from importlib import import_module
from io import BytesIO
from typing import Any

import structlog
from django.conf import settings
from django.contrib.auth import get_user
from django.core.handlers.asgi import ASGIRequest
from django.db import OperationalError, connections
from django.db.models import Q, QuerySet
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts.models import ApiKey, User
from accounts.permissions import SAFE
from certctrl import clock, errors, origins
from certctrl.jsonbody import printable
from certctrl.sentences import sentence as _
from certctrl.statements import Parameter, select

log = structlog.get_logger()

USE_IS_NOTED_EVERY = timedelta(minutes=1)


class JSONSessionAuthentication(BaseAuthentication):
    """Authentication by the session cookie.

    Unsafe requests must be JSON and must not come from another site. This is also checked without
    a cookie, so that a page of another site cannot log a user in. Raise Forbidden (403) for a
    request from another site. Raise NotJSON (415) for a body that is not JSON.
    """

    def authenticate(self, request: Request) -> tuple[User, None] | None:
        if request.method not in SAFE:
            refuse_other_sites(request)
            refuse_forms(request)
        user = request._request.user
        return (user, None) if isinstance(user, User) and user.is_active else None


def is_known(scope: Any) -> bool:
    """Return whether a request has a valid session or API key.

    It reads the ASGI scope, because no view has been chosen yet. It runs on a thread outside
    Django's request cycle, so it closes the database connections itself.
    """
    request: Any = ASGIRequest(scope, BytesIO())
    store = import_module(settings.SESSION_ENGINE).SessionStore
    try:
        request.session = store(request.COOKIES.get(settings.SESSION_COOKIE_NAME))
        return (
            get_user(request).is_active
            or ApiKeyAuthentication().authenticate(Request(request)) is not None
        )
    except errors.Unauthorized:
        return False
    finally:
        connections.close_all()


def refuse_other_sites(request: Request) -> None:
    """Raise Forbidden if a browser says that the request comes from another site.

    A browser says so in `Origin` (Fetch standard) and `Sec-Fetch-Site` (Fetch Metadata). curl
    sends neither. Another host of the same site counts as another site, because its pages may
    belong to another person.
    """
    origin = request.headers.get("Origin", "")
    if origin in settings.TRUSTED_ORIGINS:
        return
    if origin and not origins.is_own(origin, request._request):
        what = _(
            "This request comes from another site. %(advice)s",
            advice=origins.advice(request._request),
        )
        raise errors.Forbidden(what, origin=printable(origin), host=printable(request.get_host()))
    if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        raise errors.Forbidden(
            _(
                "This request comes from another site. To allow it, name that site in "
                "TRUSTED_ORIGINS."
            )
        )


def refuse_forms(request: Request) -> None:
    """Raise NotJSON unless the body is application/json or empty.

    HTML forms cannot send application/json, and they always send a Content-Type. A body without a
    Content-Type is refused too.
    """
    content_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    empty = (
        request.headers.get("Content-Length", "0") in ("", "0")
        and "Transfer-Encoding" not in request.headers
    )
    if content_type != "application/json" and (content_type or not empty):
        raise errors.NotJSON(
            _(
                "The body is not declared as JSON. Send JSON, with the header Content-Type: "
                "application/json."
            )
        )


@select
def _usable_key(digest: Parameter, now: Parameter) -> QuerySet[ApiKey]:
    return ApiKey.objects.usable(now).filter(digest=digest).select_related("owner")


class ApiKeyAuthentication(BaseAuthentication):
    """Authentication by `Authorization: Bearer ak_...`. `request.auth` is then the ApiKey.

    Raise Unauthorized (401, code 5018) if the key is unknown, expired or revoked, or if its owner
    is inactive.
    """

    def authenticate(self, request: Request) -> tuple[User, ApiKey] | None:
        scheme, _space, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip().startswith(ApiKey.MARK):
            return None
        found = _usable_key(digest=digest_of(token.strip()), now=clock.now())
        key = found[0] if found else None
        if key is None or not key.owner.is_active:
            raise errors.Unauthorized(
                _("This API key is unknown, expired or revoked. Make a new one.")
            )
        note_use(key)
        return key.owner, key

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="certctrl"'


def digest_of(token: str) -> str:
    """Return the SHA-256 of a token, in hex.

    A token has 256 random bits, so a slower hash is not needed.
    """
    return hashlib.sha256(token.encode()).hexdigest()


def note_use(key: ApiKey) -> None:
    """Write `last_used_at`, at most once per `USE_IS_NOTED_EVERY`."""
    now = clock.now()
    if key.last_used_at is None or not now - USE_IS_NOTED_EVERY < key.last_used_at <= now:
        stale = (
            Q(last_used_at=None)
            | Q(last_used_at__lte=now - USE_IS_NOTED_EVERY)
            | Q(last_used_at__gt=now)
        )
        try:
            ApiKey.objects.filter(stale, pk=key.pk).update(last_used_at=now)
        except OperationalError as exc:
            # For example, the disk is full. Requests that only read must still be answered.
            log.warning("apikey.use_not_noted", error=type(exc).__name__)
