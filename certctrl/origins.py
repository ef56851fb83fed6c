"""The origin that a browser sends, and advice when a proxy makes a request look foreign."""

from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html

from certctrl.jsonbody import printable

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
        return (
            f"The browser says that it is at {printable(origin)}, but this server was called as "
            f"{printable(host)}. If both are the same place, the proxy must pass on the host with "
            "its port: with nginx `proxy_set_header Host $http_host;`. The pages of another site "
            "may send requests only if the setting TRUSTED_ORIGINS names its origin."
        )
    if origin.lower().startswith("https://") and not request.is_secure():
        return (
            f"The browser says that it is at {printable(origin)}, but this server was called by "
            "plain HTTP. Where a proxy ends TLS, it must send X-Forwarded-Proto (with nginx "
            "`proxy_set_header X-Forwarded-Proto $scheme;`), and the setting BEHIND_PROXY must be "
            "`true`."
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


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Return the page for a refused form (Django's CSRF_FAILURE_VIEW)."""
    what = advice(request)
    if not what and settings.CSRF_COOKIE_SECURE and not request.is_secure():
        what = (
            "This server was called by plain HTTP, and SESSION_COOKIE_SECURE lets browsers send "
            "cookies over HTTPS only. Come by HTTPS. Where a proxy ends TLS, it must send "
            "X-Forwarded-Proto (with nginx `proxy_set_header X-Forwarded-Proto $scheme;`), and the "
            "setting BEHIND_PROXY must be `true`."
        )
    what = (
        what
        or "The form has no token, or its cookie is missing. "
        "Allow cookies, load the page again, and send it."
    )
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Forbidden</title>'
        "<h1>Forbidden (403)</h1><p>The form was not taken.</p><p>{}</p></html>"
    )
    return HttpResponse(format_html(page, what), status=403)
