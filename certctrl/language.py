"""The language of a request to the API. Pages choose theirs in the same way (dashboard.page)."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.utils import translation

from certctrl.errorshape import is_api


class RequestLanguage:
    """Middleware that shows sentences in the language of `Accept-Language`, or else in English.

    Scripts send no such header. A language that the person chose on the pages comes first.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if "HTTP_ACCEPT_LANGUAGE" not in request.META or not is_api(request):
            return self.get_response(request)
        with translation.override(translation.get_language_from_request(request)):
            return self.get_response(request)
