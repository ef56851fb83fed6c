"""The pages of a person's own account: name, address, password, second factor, sessions."""

from collections.abc import Callable
from typing import Any

import segno
from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.safestring import mark_safe
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.debug import sensitive_variables
from django.views.i18n import set_language

from accounts import sessions
from accounts.models import User
from certctrl import errors
from certctrl.errorshape import refusal_of
from dashboard.page import Page, need_fresh_login, show
from dashboard.signing import refuse_no_address
from signin import mailedcodes, registration, secondfactor
from signin.models import SecondFactor

BROWSERS = (
    ("Edg/", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
    ("curl/", "curl"),
    ("python-requests/", "python-requests"),
)
SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)


class Settings(Page):
    """The page of the person. The form `x` is sent to `settings/x`, and calls `do_x()`."""

    keeps = ("name", "country_of_residence", "email", "invited")

    def get(self, request: HttpRequest, action: str = "") -> HttpResponse:
        if action:  # a form that was sent after the session ended
            return HttpResponseRedirect(reverse("settings"))
        return self.page()

    @sensitive_variables()
    def post(self, request: HttpRequest, action: str = "") -> HttpResponse:
        act: Callable[[], HttpResponse | None] | None = getattr(self, f"do_{action}", None)
        if not act:
            raise errors.NotFound(_("There is no such page, or it is not yours."))
        try:
            done = act()
        except Exception as exc:
            refused = refusal_of(exc)
            if not refused:
                raise
            self.owner.refresh_from_db()
            return self.page(refused, action, refused.status)
        return done or HttpResponseRedirect(reverse("settings"))

    def page(
        self, refused: errors.ApiError | None = None, action: str = "", status: int = 200
    ) -> HttpResponse:
        rows = [
            (each, named(each.agent), sessions.is_current(self.request, each))
            for each in sessions.sessions_of(self.owner)[: sessions.MOST_SHOWN]
        ]
        given = {"name": self.owner.name, "country_of_residence": self.owner.country_of_residence}
        typed = {name: text for name, text in self.request.POST.items() if name in self.keeps}
        context = {
            "here": "settings",
            "given": given | typed,
            "refused": refused,
            "refused_at": action,
            "sessions": rows,
            "has_password": self.owner.has_usable_password(),
            "has_factor": secondfactor.is_on(self.owner),
            "codes_left": secondfactor.recovery_codes_left(self.owner),
            "mails": settings.MAIL_IS_SET_UP,
            "may_invite": self.owner.is_staff and settings.REGISTRATION != "closed",
        }
        return show(self.request, "settings.html", context, status=status)

    def done(self, what: str) -> None:
        messages.success(self.request, what)

    def do_name(self) -> None:
        sent = self.request.POST
        name, country = sent.get("name", ""), sent.get("country_of_residence", "")
        registration.change_name(self.owner, name, country)
        self.done(_("Your name is changed."))

    def do_address(self) -> HttpResponse:
        email = self.request.POST.get("email", "")
        refuse_no_address(email)
        need_fresh_login(self.request)
        registration.request_new_address(self.request, self.owner, email)
        return show(self.request, "new_address.html", {"here": "settings", "email": email})

    def do_new_address(self) -> HttpResponse | None:
        sent = self.request.POST
        email = sent.get("new_email", "")
        try:
            registration.confirm_new_address(
                self.request, self.owner, email, sent.get("verify_code", "")
            )
        except errors.ApiError as refused:
            context = {"here": "settings", "email": email, "refused": refused}
            return show(self.request, "new_address.html", context, status=refused.status)
        self.done(_("Your address is changed. Sign in with it from now on."))
        return None

    @sensitive_variables()
    def do_password(self) -> None:
        sent = self.request.POST
        old, new = sent.get("password", ""), sent.get("new_password", "")
        ended = registration.change_password(self.request, self.owner, old, new)
        said = ngettext(
            "The password is changed. %(count)d other session has ended.",
            "The password is changed. %(count)d other sessions have ended.",
            ended,
        )
        self.done(said % {"count": ended})

    def do_end_session(self) -> None:
        sessions.end(self.owner, self.request.POST.get("session", ""))
        self.done(_("The session has ended."))

    def do_end_sessions(self) -> None:
        ended = sessions.end_others(self.request, self.owner)
        said = ngettext(
            "%(count)d other session has ended.", "%(count)d other sessions have ended.", ended
        )
        self.done(said % {"count": ended})

    def do_remove_factor(self) -> None:
        need_fresh_login(self.request)
        secondfactor.remove(self.owner, self.request)
        self.done(_("The second factor is removed. The password alone signs you in."))

    @sensitive_variables()
    def do_new_codes(self) -> HttpResponse:
        need_fresh_login(self.request)
        codes = secondfactor.renew_codes(self.owner, self.request)
        return show_codes(self.request, codes)

    def do_invite(self) -> None:
        email = self.request.POST.get("invited", "")
        refuse_no_address(email)
        if not self.owner.is_staff:
            raise errors.Forbidden(_("Only staff may invite people."))
        mailedcodes.invite(self.request, self.owner, email)
        self.done(_("An invitation is on its way to %(email)s.") % {"email": email})


class Language(Page):
    """Show the pages in another language. The mails to a signed-in user follow."""

    needs_session = False

    def post(self, request: HttpRequest) -> HttpResponse:
        if isinstance(request.user, User):
            registration.choose_language(request.user, request.POST.get("language", ""))
        return set_language(request)


@sensitive_variables()
def show_codes(request: HttpRequest, codes: list[str], is_first: bool = False) -> HttpResponse:
    context = {"here": "settings", "codes": codes, "is_first": is_first}
    response = show(request, "recovery_codes.html", context)
    response["Cache-Control"] = "no-store"
    return response


class SecondFactorPage(Page):
    """Add an authenticator app. The secret is on this page until the first code was right."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        response = super().dispatch(request, *args, **kwargs)
        response["Cache-Control"] = "no-store"
        return response

    def get(self, request: HttpRequest) -> HttpResponse:
        return self.page()

    @sensitive_variables()
    def post(self, request: HttpRequest) -> HttpResponse:
        need_fresh_login(request)
        code = request.POST.get("code", "").strip()
        if not code:
            secondfactor.start(self.owner)
            return HttpResponseRedirect(reverse("second-factor"))
        try:
            codes = secondfactor.confirm(self.owner, code, request)
        except errors.Invalid as refused:
            return self.page(refused, refused.status)
        return show_codes(request, codes, is_first=True)

    @sensitive_variables()
    def page(self, refused: errors.ApiError | None = None, status: int = 200) -> HttpResponse:
        found = SecondFactor.objects.select_related("user", "secret")
        factor = found.filter(user=self.owner, confirmed_at=None).first()
        if not factor:
            return HttpResponseRedirect(reverse("settings"))
        need_fresh_login(self.request)
        host = self.request.get_host()
        code = segno.make(secondfactor.uri_of(factor, host), error="m")
        context = {
            "here": "settings",
            # The library makes the drawing from the text alone.
            "drawing": mark_safe(code.svg_inline(scale=4, border=4, light="#fff")),  # noqa: S308
            "secret": secondfactor.secret_of(factor),
            "refused": refused,
        }
        return show(self.request, "add_second_factor.html", context, status=status)


def named(agent: str) -> str:
    """Return the browser and the system that a User-Agent names, as far as they are known."""
    browser = next((name for mark, name in BROWSERS if mark in agent), "")
    system = next((name for mark, name in SYSTEMS if mark in agent), "")
    if browser and system:
        return _("%(browser)s on %(system)s") % {"browser": browser, "system": system}
    return browser or system or agent[:60] or _("unknown program")
