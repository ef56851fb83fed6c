"""The security policy of the admin. See docs/decisions/0057-pages-read-few-rows.md."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

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
    """Middleware that sends the policy of the admin's pages."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if request.path_info.startswith("/admin/"):
            response.headers.setdefault("Content-Security-Policy", ADMIN_POLICY)
        return response
