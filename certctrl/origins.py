"""The origin that a browser sends, and advice when a proxy makes a request look foreign."""

from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest

from certctrl.errors import Forbidden
from certctrl.jsonbody import printable
from certctrl.sentences import sentence as _

DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def is_own(origin: str, request: HttpRequest) -> bool:
    """Return whether the origin has the host and port of the request.

    The default port of the scheme may be left out. The scheme may differ, because a proxy that ends
    TLS need not report it.
    """
    scheme, _, host = origin.lower().partition("://")
    port = DEFAULT_PORTS.get(scheme, ":")
    return host.removesuffix(port) == request.get_host().lower().removesuffix(port)


def advice(request: HttpRequest) -> str:
    """Return what is wrong with the origin and what to set, or "" when nothing is wrong."""
    origin = origin_of(request)
    if not origin:
        return ""
    host = request.get_host()
    if not is_own(origin, request):
        return _(
            "The browser sent the origin %(origin)s, but this server was called as "
            "%(host)s. If both are the same site, the proxy must pass on the host with "
            "its port. With nginx: `proxy_set_header Host $http_host;`. Pages of another "
            "site may send requests only if the setting TRUSTED_ORIGINS names its origin.",
            origin=printable(origin),
            host=printable(host),
        )
    if origin.lower().startswith("https://") and not request.is_secure():
        return _(
            "The browser sent the origin %(origin)s, but this server was called by plain "
            "HTTP. A proxy that ends TLS must send X-Forwarded-Proto. With nginx: "
            "`proxy_set_header X-Forwarded-Proto $scheme;`. The setting BEHIND_PROXY "
            "must then be `true`.",
            origin=printable(origin),
        )
    return ""


def origin_of(request: HttpRequest) -> str:
    """Return the header Origin, or else the origin of the Referer, or "" without both."""
    origin = request.headers.get("Origin", "")
    if origin:
        return origin
    try:
        referer = urlsplit(request.headers.get("Referer", ""))
    except ValueError:
        return ""
    return f"{referer.scheme}://{referer.netloc}" if referer.netloc else ""


def refusal_of_form(request: HttpRequest) -> Forbidden:
    """Return why a form was refused: another origin, a proxy that hides TLS, or no token."""
    what = advice(request)
    if not what and settings.CSRF_COOKIE_SECURE and not request.is_secure():
        what = _(
            "This server was called by plain HTTP, but SESSION_COOKIE_SECURE allows "
            "cookies over HTTPS only. Call it by HTTPS. A proxy that ends TLS must send "
            "X-Forwarded-Proto. With nginx: `proxy_set_header X-Forwarded-Proto "
            "$scheme;`. The setting BEHIND_PROXY must then be `true`."
        )
    return Forbidden(
        what
        or _(
            "The form has no token, or its cookie is missing. Allow cookies and load the "
            "page again. Then send the form."
        )
    )
