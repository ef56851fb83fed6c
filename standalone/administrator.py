"""The first user of the embedded server.

The first start creates it, with a password that is shown once.
"""

import secrets
import string
from dataclasses import dataclass

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError
from django.core.validators import validate_email

from certctrl.environment import Environment
from certctrl.state import StateFile
from notices.models import NoticeSettings

EMAIL = "admin@lab.test"
ALPHABET = string.ascii_letters + string.digits
PENDING = "password_pending"  # a password was generated, and nobody has seen it yet


@dataclass
class Administrator:
    """The first user.

    `password` is empty when only its owner knows it. `generated` is true when it must be shown.
    """

    email: str
    password: str = ""
    generated: bool = False
    is_new: bool = False


def administrator(state: StateFile) -> Administrator:
    """Return the first user. Create it when there is none.

    Raise CommandError for an email address or a password that cannot be used.
    """
    env = Environment()
    password = env.str("ADMIN_PASSWORD", "")
    user = get_user_model().objects.order_by("pk").first()
    if user is None:
        return first_user(state, env.str("ADMIN_EMAIL", ""), password)
    if state.get(PENDING):
        return unseen_password(user)
    known = password if password and user.check_password(password) else ""
    return Administrator(str(user.get_username()), known)


def first_user(state: StateFile, email: str, given: str) -> Administrator:
    is_made_up, email = not email, email or EMAIL
    refuse_unusable(email, given)
    password = given or generated_password()
    # Stored before the user is created, so that a password that was never shown is replaced at the
    # next start.
    state.keep(**{PENDING: not given})
    user = get_user_model().objects.create_superuser(email=email, password=password)
    if is_made_up:  # nobody reads mail at this address
        NoticeSettings.objects.create(owner=user, made_up_email=email)
    return Administrator(email, password, generated=not given, is_new=True)


def unseen_password(user: AbstractBaseUser) -> Administrator:
    """Set another password, because the first start ended before it showed its password."""
    password = generated_password()
    user.set_password(password)
    user.save(update_fields=["password"])
    return Administrator(str(user.get_username()), password, generated=True)


def shown(state: StateFile) -> None:
    """Record that the password was shown on a screen."""
    if state.get(PENDING):
        state.keep(**{PENDING: False})


def refuse_unusable(email: str, password: str) -> None:
    try:
        validate_email(email)
        if password:
            validate_password(password)
    except ValidationError as exc:
        raise CommandError(
            f"ADMIN_EMAIL or ADMIN_PASSWORD cannot be used: {' '.join(exc.messages)}"
        ) from None


def generated_password() -> str:
    """Return twenty letters and digits in groups of five, about 119 bits."""
    while True:
        text = "".join(secrets.choice(ALPHABET) for _ in range(20))
        if (
            any(c.islower() for c in text)
            and any(c.isupper() for c in text)
            and any(c.isdigit() for c in text)
        ):
            return "-".join(text[i : i + 5] for i in range(0, 20, 5))
