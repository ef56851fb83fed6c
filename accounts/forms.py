"""The login form of the admin. It shares the count of failures with the API's login."""

from typing import Any

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from unfold.forms import AuthenticationForm

from accounts import audit, passwords
from accounts.services import Attempts, note_failure, note_login
from certctrl.errors import ApiError
from certctrl.errorshape import error_headers


class LoginForm(AuthenticationForm):  # type: ignore[misc]
    """The login form of the admin.

    It refuses a login after too many failures, and while too many passwords wait for their check.
    In both cases the password is not checked.
    """

    def clean(self) -> dict[str, Any]:
        attempts = Attempts(audit.ip_of(self.request), str(self.data.get("username", "")))
        try:
            attempts.begin()
            with passwords.hashing(attempts.take_back):
                cleaned: dict[str, Any] = super().clean()
        except ApiError as refused:
            self.request.refused = refused
            raise ValidationError(refused.what) from None
        except ValidationError:
            note_failure(self.request, str(self.data.get("username", "")))
            raise
        user = self.get_user()
        if user is None:
            # Django calls clean() even if a field is missing. Then no password was checked.
            attempts.take_back()
            return cleaned
        attempts.forget()
        note_login(self.request, user)
        return cleaned


def login_page(request: HttpRequest) -> HttpResponse:
    """Return the admin's login page. A refusal sets its status and its Retry-After header."""
    response = admin.site.login(request)
    refused: ApiError | None = getattr(request, "refused", None)
    if refused:
        response.status_code = refused.status
        for name, value in error_headers(refused).items():
            response[name] = value
    return response
