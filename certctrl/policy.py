"""The security policy of the admin. See docs/decisions/0057-pages-read-few-rows.md."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.utils import translation
from django.utils.cache import patch_vary_headers

# Alpine compiles the expressions of attributes, and the templates of the library have styles.
ADMIN_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        *(f"{kind} 'self'" for kind in ("font-src", "connect-src", "form-action")),
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)


class AdminPolicy:
    """Middleware of the admin: the language of the person, and the policy of the pages."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not request.path_info.startswith("/admin/"):
            return self.get_response(request)
        with translation.override(translation.get_language_from_request(request)):
            response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", ADMIN_POLICY)
        patch_vary_headers(response, ("Accept-Language", "Cookie"))
        return response
