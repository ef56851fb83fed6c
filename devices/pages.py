"""The page where a person approves a device. `verification_uri` leads there."""

import re
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views import View

from accounts import audit
from accounts.models import User
from accounts.services import login
from certctrl import errors
from certctrl.errorshape import error_headers
from devices import codes
from devices.throttles import DeviceVerifyThrottle

USER_CODE = re.compile(r"[A-Z0-9]{4}-[A-Z0-9]{4}")


class ApprovePage(View):
    """A form with the code of the device. Without a session it also asks for the password."""

    def get(self, request: HttpRequest) -> HttpResponse:
        return page(request, request.GET.get("user_code", ""))

    def post(self, request: HttpRequest) -> HttpResponse:
        user_code = request.POST.get("user_code", "").strip().upper()
        try:
            decision = self.decide(request, user_code)
        except errors.ApiError as refused:
            response = page(request, user_code, refused=refused.what, status=refused.status)
            for name, value in error_headers(refused).items():
                response[name] = value
            return response
        return page(request, user_code, decision=decision)

    def decide(self, request: HttpRequest, user_code: str) -> str:
        user = request.user
        if not isinstance(user, User):
            user = login(request, request.POST.get("email", ""), request.POST.get("password", ""))
        throttle = DeviceVerifyThrottle()
        if not throttle.allow_request(request, self):  # type: ignore[arg-type]
            raise errors.RateLimited("Too many codes. Try again in a minute.", retry_after=60)
        if not USER_CODE.fullmatch(user_code):
            raise errors.Invalid("A code has the form WXYZ-1234. Copy it from the device.")
        approve = request.POST.get("decision") == "approve"
        return codes.decide(user, user_code, approve, audit.ip_of(request))


def page(request: HttpRequest, user_code: str, status: int = 200, **facts: Any) -> HttpResponse:
    context = {"user_code": user_code[:9], **facts}
    return render(request, "devices/approve.html", context, status=status)
