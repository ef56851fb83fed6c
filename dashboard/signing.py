"""Sign in, by password or by link, register, reset the password, and sign out."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables
from rest_framework import serializers

from accounts import audit, links, services
from accounts.models import User
from certctrl import errors
from certctrl.api import CountedThrottle
from certctrl.errorshape import invalid, refusal_of
from dashboard.page import Page, ask_for_code, count, keep, show
from signin import entering, openid, registration, secondfactor
from signin.entering import CodeNeeded


def wanted_page(sent: Mapping[str, str]) -> str:
    """Return the path in `next`, or that of the overview."""
    path = services.local_path(sent.get("next", ""))
    return reverse("overview") if path == "/" else path


class SignIn(Page):
    """The page asks for the password. If there is a second factor, a second page asks for its code.

    The form of the second page has a proof that the password was right.
    """

    needs_session = False

    def get(self, request: HttpRequest) -> HttpResponse:
        back = wanted_page(request.GET)
        if isinstance(request.user, User):
            return HttpResponseRedirect(back)
        return show(request, "sign_in.html", {"next": back, "may": ways_in()})

    @sensitive_variables()
    def post(self, request: HttpRequest) -> HttpResponse:
        back = wanted_page(request.POST)
        kept = request.POST.get("kept", "")
        email = request.POST.get("email", "")
        proof = request.POST.get("proof", "")
        try:
            if proof:
                entering.log_in_by_proof(request, proof, request.POST.get("code", ""))
            else:
                entering.log_in(request, email, request.POST.get("password", ""))
        except CodeNeeded:
            raise
        except errors.ApiError as refused:
            if proof and entering.holds(proof):
                return ask_for_code(request, CodeNeeded(proof), refused)
            context = {"next": back, "kept": kept, "email": email, "refused": refused}
            return show(
                request, "sign_in.html", context | {"may": ways_in()}, status=refused.status
            )
        if kept:
            keep(request, back, kept)
        return HttpResponseRedirect(back)


def ways_in() -> dict[str, Any]:
    """Return which links the sign-in page has."""
    name = settings.OIDC_NAME if openid.is_on() else ""
    return {
        "openid": name,
        "register": settings.REGISTRATION != "closed",
        "reset": settings.MAIL_IS_SET_UP,
    }


class SignInByLink(Page):
    """A page with a button. Programs that only open the link do not use it up."""

    needs_session = False

    def get(self, request: HttpRequest) -> HttpResponse:
        user = links.user_of(request.GET.get("token", ""))
        context = {"user_of_link": user, "needs_code": secondfactor.is_on(user)}
        return show(request, "sign_in_by_link.html", context)

    def post(self, request: HttpRequest) -> HttpResponse:
        entering.log_in_by_link(request, request.GET.get("token", ""))
        return HttpResponseRedirect(reverse("overview"))


class OpenIDThrottle(CountedThrottle):
    """A limit on requests from one network that may call the provider. Nobody is signed in yet."""

    scope = "openid"
    rate = "60/min"

    def get_cache_key(self, request: Any, view: Any) -> str:
        ip = audit.ip_of(request)
        return f"throttle_{self.scope}_{audit.network_of(ip) if ip else ''}"


class OpenID(Page):
    """Lead to the OpenID provider. A cookie keeps what its answer must match."""

    needs_session = False

    def get(self, request: HttpRequest) -> HttpResponse:
        count(OpenIDThrottle(), request, self)
        begun = openid.begin(request, wanted_page(request.GET), again="again" in request.GET)
        response = HttpResponseRedirect(begun.address)
        response.set_cookie(
            openid.COOKIE,
            begun.cookie,
            max_age=openid.COOKIE_AGE,
            path=reverse("openid-back"),
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=True,
            samesite="Lax",
        )
        return response


class OpenIDBack(Page):
    """Where the OpenID provider sends the browser back to."""

    needs_session = False

    def respond(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = super().respond(request, *args, **kwargs)
        response.delete_cookie(openid.COOKIE, path=reverse("openid-back"), samesite="Lax")
        return response

    def get(self, request: HttpRequest) -> HttpResponse:
        count(OpenIDThrottle(), request, self)
        return HttpResponseRedirect(openid.finish(request))


class AdminSignIn(Page):
    """The admin has no sign-in of its own, so that no way leads around the second factor."""

    needs_session = False

    def get(self, request: HttpRequest) -> HttpResponse:
        if isinstance(request.user, User) and not request.user.is_staff:
            raise errors.Forbidden(_("The administration is for staff. Sign in as another user."))
        back = request.GET.get("next") or reverse("admin:index")
        return HttpResponseRedirect(f"{reverse('sign-in')}?{urlencode({'next': back})}")


class SignOut(Page):
    needs_session = False

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        services.logout(request)
        return HttpResponseRedirect(reverse("sign-in"), status=HTTPStatus.SEE_OTHER)


class Confirm(Page):
    """Asks again for the password, and the code if there is one, before an export and the like."""

    def get(self, request: HttpRequest) -> HttpResponse:
        return self.page(wanted_page(request.GET))

    @sensitive_variables()
    def post(self, request: HttpRequest) -> HttpResponse:
        back = wanted_page(request.POST)
        sent = request.POST
        try:
            entering.confirm(request, self.owner, sent.get("password", ""), sent.get("code", ""))
        except errors.ApiError as refused:
            return self.page(back, refused, refused.status)
        messages.success(request, _("Thank you. Go on with what you wanted to do."))
        return HttpResponseRedirect(back)

    def page(
        self, back: str, refused: errors.ApiError | None = None, status: int = 200
    ) -> HttpResponse:
        context = {
            "next": back,
            "refused": refused,
            "has_code": secondfactor.is_on(self.owner),
            "has_password": self.owner.has_usable_password(),
            "may": ways_in(),
        }
        return show(self.request, "confirm.html", context, status=status)


class DoorForm(Page):
    """A form without a session. A subclass sets `template` and `shown`, and has `act()`.

    `shown` names the fields that a refused form shows again.
    """

    needs_session = False
    template = ""
    shown: tuple[str, ...] = ()

    def get(self, request: HttpRequest) -> HttpResponse:
        return show(request, self.template, {"given": request.GET.dict()})

    @sensitive_variables()
    def post(self, request: HttpRequest) -> HttpResponse:
        try:
            return self.act(request)
        except CodeNeeded:
            raise
        except Exception as exc:
            refused = refusal_of(exc)
            if not refused:
                raise
            given = {name: request.POST.get(name, "") for name in self.shown}
            context = {"given": given, "refused": refused}
            return show(request, self.template, context, status=refused.status)

    def act(self, request: HttpRequest) -> HttpResponse:
        raise NotImplementedError


def to(name: str, **query: str) -> HttpResponseRedirect:
    return HttpResponseRedirect(f"{reverse(name)}?{urlencode(query)}" if query else reverse(name))


class Register(DoorForm):
    template = "register.html"
    shown = ("email", "name")

    def get(self, request: HttpRequest) -> HttpResponse:
        registration.refuse_closed()
        return super().get(request)

    @sensitive_variables()
    def act(self, request: HttpRequest) -> HttpResponse:
        sent = request.POST
        email = sent.get("email", "")
        refuse_no_address(email)
        registration.register(request, email, sent.get("password", ""), sent.get("name", ""))
        return to("activate", email=email)


class Activate(DoorForm):
    template = "activate.html"
    shown = ("email", "verify_code")

    @sensitive_variables()
    def act(self, request: HttpRequest) -> HttpResponse:
        sent = request.POST
        email, password = sent.get("email", ""), sent.get("password", "")
        registration.activate(request, email, sent.get("verify_code", ""), password)
        entering.log_in(request, email, password)
        messages.success(request, _("Your account is ready."))
        return to("overview")


class RequestReset(DoorForm):
    template = "request_reset.html"
    shown = ("email",)

    def act(self, request: HttpRequest) -> HttpResponse:
        email = request.POST.get("email", "")
        refuse_no_address(email)
        registration.request_reset(request, email)
        return to("reset", email=email)


class Reset(DoorForm):
    template = "reset.html"
    shown = ("email", "verify_code")

    @sensitive_variables()
    def act(self, request: HttpRequest) -> HttpResponse:
        sent = request.POST
        email, password = sent.get("email", ""), sent.get("password", "")
        registration.reset_password(request, email, sent.get("verify_code", ""), password)
        entering.log_in(request, email, password)
        messages.success(request, _("The password is changed. All other sessions have ended."))
        return to("overview")


def refuse_no_address(email: str) -> None:
    try:
        serializers.EmailField(max_length=254).run_validation(email)
    except serializers.ValidationError as exc:
        raise invalid({"email": exc.detail}) from None
