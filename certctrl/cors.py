"""CORS: lets pages of the origins in TRUSTED_ORIGINS read responses.

See the Fetch standard, section 3.3, and docs/reference/api.md. Other origins get no CORS headers,
so their browsers hide the response.
"""

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.cache import patch_vary_headers

from certctrl.errorshape import is_api

METHODS = "GET, POST, PUT, PATCH, DELETE"
HEADERS = "Content-Type, Authorization, Idempotency-Key"
EXPOSED = (
    "Link, X-Total-Count, X-Total-Count-More, X-Export-Password, Retry-After, Content-Disposition"
)
PREFLIGHT_COUNTS_FOR = 600  # seconds


class CORS:
    """Middleware before authentication, because a browser sends OPTIONS without a credential."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not is_api(request):
            return self.get_response(request)
        origin = request.headers.get("Origin", "")
        is_trusted = origin in settings.TRUSTED_ORIGINS
        response = (
            preflight() if is_trusted and is_preflight(request) else self.get_response(request)
        )
        patch_vary_headers(response, ["Origin"])
        if is_trusted:
            response["Access-Control-Allow-Origin"] = origin
            response["Access-Control-Allow-Credentials"] = "true"
            response["Access-Control-Expose-Headers"] = EXPOSED
        return response


def is_preflight(request: HttpRequest) -> bool:
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def preflight() -> HttpResponse:
    headers = {
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": HEADERS,
        "Access-Control-Max-Age": str(PREFLIGHT_COUNTS_FOR),
    }
    return HttpResponse(status=204, headers=headers)
