"""The pages of errors that no view of the pages has seen. The API has its own."""

import sys
from typing import Any, cast

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.translation import gettext as _

from certctrl import errors, errorshape, origins
from dashboard.page import Page, refused_page


class ErrorPage(Page):
    """The page of an error, with the headers of a page."""

    refused: errors.ApiError | None = None

    def respond(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        missing = errors.NotFound(_("There is nothing at this address. Check it."))
        return refused_page(request, self.refused or missing)


def page_of(request: HttpRequest, refused: errors.ApiError | None = None) -> HttpResponse:
    return cast(HttpResponse, ErrorPage.as_view(refused=refused)(request))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if errorshape.is_api(request):
        return errorshape.not_found(request, exception)
    return page_of(request)


def server_error(request: HttpRequest) -> HttpResponse:
    if errorshape.is_api(request):
        return errorshape.server_error(request)
    return page_of(request, errorshape.unexpected(sys.exc_info()[1]))


def form_refused(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Return the page of a form without its token (Django's CSRF_FAILURE_VIEW)."""
    return page_of(request, origins.refusal_of_form(request))
