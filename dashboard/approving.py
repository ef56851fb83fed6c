"""The page where a person approves a device. `verification_uri` leads there."""

import re
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from accounts import audit
from accounts.models import User
from certctrl import errors
from dashboard.page import Page, show
from devices import codes
from devices.throttles import DeviceVerifyThrottle
from signin import entering

USER_CODE = re.compile(r"[A-Z0-9]{4}-[A-Z0-9]{4}")


class ApprovePage(Page):
    """A form with the code of the device. Without a session it also asks for the password."""

    needs_session = False

    def get(self, request: HttpRequest) -> HttpResponse:
        return page(request, request.GET.get("user_code", ""))

    def post(self, request: HttpRequest) -> HttpResponse:
        user_code = request.POST.get("user_code", "").strip().upper()
        try:
            decision = self.decide(request, user_code)
        except errors.ApiError as refused:
            needs_code = isinstance(refused, errors.SecondFactorNeeded) or "code" in request.POST
            facts = {"needs_code": needs_code, "email": request.POST.get("email", "")}
            return page(request, user_code, refused=refused, status=refused.status, **facts)
        return page(request, user_code, decision=decision)

    def decide(self, request: HttpRequest, user_code: str) -> str:
        user = request.user
        if not isinstance(user, User):
            sent = request.POST
            user = entering.log_in(
                request,
                sent.get("email", ""),
                sent.get("password", ""),
                sent.get("code", ""),
            )
        throttle = DeviceVerifyThrottle()
        if not throttle.allow_request(request, self):  # type: ignore[arg-type]
            raise errors.RateLimited(_("Too many codes. Try again in a minute."), retry_after=60)
        if not USER_CODE.fullmatch(user_code):
            raise errors.Invalid(_("A code has the form WXYZ-1234. Copy it from the device."))
        approve = request.POST.get("decision") == "approve"
        return codes.decide(user, user_code, approve, audit.ip_of(request))


def page(request: HttpRequest, user_code: str, status: int = 200, **facts: Any) -> HttpResponse:
    context = {"user_code": user_code[:9], **facts}
    return show(request, "approve.html", context, status)
