"""Sign in, by password or by link, and sign out."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from accounts import links, services
from accounts.models import User
from certctrl import errors
from dashboard.page import Page, keep, show, with_headers


def wanted_page(sent: Mapping[str, str]) -> str:
    """Return the path in `next`, or that of the overview."""
    path = services.local_path(sent.get("next", ""))
    return reverse("overview") if path == "/" else path


class SignIn(Page):
    needs_session = False

    def get(self, request: HttpRequest) -> HttpResponse:
        back = wanted_page(request.GET)
        if isinstance(request.user, User):
            return HttpResponseRedirect(back)
        return show(request, "sign_in.html", {"next": back})

    def post(self, request: HttpRequest) -> HttpResponse:
        back = wanted_page(request.POST)
        kept = request.POST.get("kept", "")
        email = request.POST.get("email", "")
        try:
            services.login(request, email, request.POST.get("password", ""))
        except errors.ApiError as refused:
            context = {"next": back, "kept": kept, "email": email, "refused": refused}
            response = show(request, "sign_in.html", context, status=refused.status)
            return with_headers(response, refused)
        if kept:
            keep(request, back, kept)
        return HttpResponseRedirect(back)


class SignInByLink(Page):
    """A page with a button. Programs that only open the link do not use it up."""

    needs_session = False

    def get(self, request: HttpRequest) -> HttpResponse:
        user = links.user_of(request.GET.get("token", ""))
        return show(request, "sign_in_by_link.html", {"user_of_link": user})

    def post(self, request: HttpRequest) -> HttpResponse:
        links.login_by_link(request, request.GET.get("token", ""))
        return HttpResponseRedirect(reverse("overview"))


class SignOut(Page):
    needs_session = False

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        services.logout(request)
        return HttpResponseRedirect(reverse("sign-in"), status=HTTPStatus.SEE_OTHER)
