"""Views of the session and the person's own account, see `docs/reference/api.md`."""

import json
from collections.abc import Callable
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import services, sessions
from accounts.models import User
from accounts.views import SessionView
from certctrl import errors
from certctrl.api import parsed
from certctrl.errorshape import error_response
from certctrl.jsonbody import printable
from certctrl.schema import OR_ERROR
from certctrl.sentences import sentence as _
from signin import entering, registration
from signin.serializers import (
    ActivateRequest,
    EndedSerializer,
    LoggedInSerializer,
    LoginSerializer,
    NameSerializer,
    ProfileSerializer,
    RegisterRequest,
    RequestResetRequest,
    ResetRequest,
    SessionSerializer,
    StatusSerializer,
)


class General(SessionView):
    """Log in, register, or set a new password. The member `action` says which."""

    permission_classes = [AllowAny]

    @extend_schema(request=LoginSerializer, responses={200: LoggedInSerializer})
    def post(self, request: Request) -> Response:
        actions: dict[Any, Callable[[Request], Response]] = {
            "login": self.login,
            "register": self.register,
            "activate-user": self.activate,
            "request-reset-password": self.request_reset,
            "reset-password": self.reset_password,
        }
        action = dict(request.data).get("action", "login")
        act = actions.get(action) if isinstance(action, str) else None
        if not act:
            given = printable(json.dumps(action, ensure_ascii=False))
            raise errors.Invalid(
                _(
                    "There is no action %(given)s here. Choose one of %(actions)s.",
                    given=given,
                    actions=", ".join(actions),
                ),
                field="action",
            )
        return act(request)

    @extend_schema(
        parameters=[OpenApiParameter("name", str, required=True)],
        responses={200: NameSerializer},
    )
    def get(self, request: Request) -> Response:
        """Return whether a user may have this name. Names need not be unique."""
        registration.refuse_bad_name(request.query_params.get("name", ""))
        return Response({"available": True})

    def register(self, request: Request) -> Response:
        given = parsed(RegisterRequest, request)
        registration.register(request._request, **given)
        return self.said(given["email"], "waiting_for_verification")

    def activate(self, request: Request) -> Response:
        given = parsed(ActivateRequest, request)
        registration.activate(
            request._request, given["email"], given["verify_code"], given.get("password")
        )
        return self.said(given["email"], "activation_successful")

    def request_reset(self, request: Request) -> Response:
        given = parsed(RequestResetRequest, request)
        registration.request_reset(request._request, given["email"])
        return self.said(given["email"], "reset_code_sent")

    def reset_password(self, request: Request) -> Response:
        given = parsed(ResetRequest, request)
        registration.reset_password(
            request._request, given["email"], given["verify_code"], given["new_password"]
        )
        return self.said(given["email"], "password_reset_success")

    def said(self, email: str, status: str) -> Response:
        return Response({"email": email, "status": status})

    def login(self, request: Request) -> Response:
        given = parsed(LoginSerializer, request)
        user = entering.log_in(
            request._request, given["email"], given["password"], given.get("code", "")
        )
        return Response(
            LoggedInSerializer(
                {"user": user, "to": services.local_path(given.get("next", ""))}
            ).data
        )


class Logout(SessionView):
    permission_classes = [AllowAny]

    @extend_schema(request=None, responses={204: None})
    def post(self, request: Request) -> Response:
        services.logout(request._request)
        return Response(status=204)


class LogInStatus(SessionView):
    permission_classes = [AllowAny]

    @extend_schema(responses={200: StatusSerializer}, extensions={OR_ERROR: True})
    def get(self, request: Request) -> Response:
        user = request.user
        if not isinstance(user, User):
            return error_response(errors.NobodyLoggedIn(_("There is no session. Log in first.")))
        since = services.logged_in_at(request)
        amr = request._request.session.get("amr", ["pwd"])
        status = {
            "user": user,
            "to": "",
            "amr": amr,
            "acr": "aal2" if "mfa" in amr else "aal1",
            "auth_time": since,
            "mfa": "mfa" in amr,
        }
        return Response(StatusSerializer(status).data)


class Profile(SessionView):
    @extend_schema(responses={200: ProfileSerializer})
    def get(self, request: Request) -> Response:
        user: Any = request.user
        return Response(ProfileSerializer(user).data)


class Sessions(SessionView):
    @extend_schema(responses={200: SessionSerializer(many=True)})
    def get(self, request: Request) -> Response:
        """Return your open sessions, the latest used first."""
        user: Any = request.user
        rows = sessions.sessions_of(user)[: sessions.MOST_SHOWN]
        shown = SessionSerializer(rows, many=True, context={"request": request._request})
        return Response(shown.data)

    @extend_schema(responses={200: EndedSerializer})
    def delete(self, request: Request) -> Response:
        """End all your sessions but this one."""
        user: Any = request.user
        return Response({"ended": sessions.end_others(request._request, user)})


class OneSession(SessionView):
    @extend_schema(responses={204: None})
    def delete(self, request: Request, session_id: str) -> Response:
        """End one of your sessions."""
        user: Any = request.user
        sessions.end(user, session_id)
        return Response(status=204)
