"""The language of a request: that of its errors, its pages and its sentences."""

from collections.abc import Callable, MutableMapping
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, parse_cookie
from django.utils import translation
from django.utils.cache import patch_vary_headers


class RequestLanguage:
    """Middleware that shows sentences in the language of the person, or else in English.

    It is the language that was chosen on the pages, or else that of `Accept-Language`. Scripts send
    neither.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path.startswith(settings.STATIC_URL):
            return self.get_response(request)
        with in_language_of(request):
            response = self.get_response(request)
            response.headers.setdefault("Content-Language", translation.get_language() or "en")
        patch_vary_headers(response, ("Accept-Language", "Cookie"))
        return response


def in_language_of(request: HttpRequest) -> translation.override:
    return translation.override(translation.get_language_from_request(request))


def in_language_of_scope(scope: MutableMapping[str, Any]) -> translation.override:
    """Do the same for a request that Django does not see, by its ASGI scope."""
    headers = dict(scope["headers"])
    request = HttpRequest()
    request.META["HTTP_ACCEPT_LANGUAGE"] = headers.get(b"accept-language", b"").decode("latin-1")
    request.COOKIES = parse_cookie(headers.get(b"cookie", b"").decode("latin-1"))
    return in_language_of(request)
