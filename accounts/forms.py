"""The admin's login: the same count of failures as the API's."""

from typing import Any

from django.core.exceptions import ValidationError
from unfold.forms import AuthenticationForm

from accounts import audit
from accounts.services import Attempts, note_failure, note_login
from certctrl.errors import RateLimited


class LoginForm(AuthenticationForm):  # type: ignore[misc]
    """Refuses without a look at the password after too many failures for one e-mail address."""

    def clean(self) -> dict[str, Any]:
        attempts = Attempts(audit.ip_of(self.request) or "", str(self.data.get("username", "")))
        try:
            attempts.begin()
        except RateLimited as limited:
            raise ValidationError(limited.what) from None
        try:
            cleaned: dict[str, Any] = super().clean()
        except ValidationError:
            note_failure(self.request, str(self.data.get("username", "")))
            raise
        attempts.forget()
        note_login(self.request, self.get_user())
        return cleaned
