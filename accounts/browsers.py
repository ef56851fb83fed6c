"""Browsers in which a user has signed in before. A signed cookie says in which.

Wrong passwords in such a browser are counted apart from those of strangers, at every address. So
no stranger locks out an owner, and a stolen cookie allows few guesses:
https://owasp.org/www-community/Slow_Down_Online_Guessing_Attacks_with_Device_Cookies
"""

import secrets
from collections.abc import Callable

from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponse

from accounts.models import User
from certctrl import clock

COOKIE = "known_browser"
SALT = "accounts.browsers"
KNOWN_FOR = 30 * 86400  # seconds since the latest sign-in
MOST_USERS = 10  # of one browser


def known_as(request: HttpRequest, user_id: int) -> str:
    """Return the id of the browser if the user has signed in there, else an empty string."""
    browser, users = _held(request)
    return browser if user_id in users else ""


def _held(request: HttpRequest) -> tuple[str, dict[int, int]]:
    """Return the id of the browser, and when each user has signed in there last."""
    try:
        held = signing.loads(request.COOKIES.get(COOKIE, ""), salt=SALT)
    except signing.BadSignature:
        return "", {}
    since = clock.now().timestamp() - KNOWN_FOR
    return held["browser"], {int(pk): at for pk, at in held["users"].items() if at > since}


def note_sign_in(request: HttpRequest, user: User) -> None:
    """Let the response of this request make the browser known to the user."""
    request.signed_in = user.pk  # type: ignore[attr-defined]


class KnownBrowser:
    """The middleware that sets the cookie."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if user_id := getattr(request, "signed_in", None):
            browser, users = _held(request)
            users[user_id] = int(clock.now().timestamp())
            latest = sorted(users, key=users.__getitem__)[-MOST_USERS:]
            held = {
                "browser": browser or secrets.token_urlsafe(16),
                "users": {pk: users[pk] for pk in latest},
            }
            response.set_cookie(
                COOKIE,
                signing.dumps(held, salt=SALT),
                max_age=KNOWN_FOR,
                path=settings.SESSION_COOKIE_PATH,
                secure=settings.SESSION_COOKIE_SECURE,
                httponly=True,
                samesite="Lax",
            )
        return response
