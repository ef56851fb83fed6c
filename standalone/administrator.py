"""The embedded server's first user: made at the first start, with a password that is shown once."""

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
from certctrl.state import State
from notices.models import NoticeSettings

EMAIL = "admin@lab.test"
ALPHABET = string.ascii_letters + string.digits
PENDING = "password_pending"  # a password was generated that nobody has seen yet


@dataclass
class Administrator:
    """`password` is empty when only its owner knows it; `generated` is true when it has to be shown."""

    email: str
    password: str = ""
    generated: bool = False
    is_new: bool = False


def administrator(state: State) -> Administrator:
    """The first user, made when there is none. Raises CommandError for an address or a password that cannot be used."""
    env = Environment()
    password = env.str("ADMIN_PASSWORD", "")
    user = get_user_model().objects.order_by("pk").first()
    if user is None:
        return first_user(state, env.str("ADMIN_EMAIL", ""), password)
    if state.get(PENDING):
        return unseen_password(user)
    known = password if password and user.check_password(password) else ""
    return Administrator(str(user.get_username()), known)


def first_user(state: State, email: str, given: str) -> Administrator:
    is_made_up, email = not email, email or EMAIL
    refuse_unusable(email, given)
    password = given or generated_password()
    state.keep(
        **{PENDING: not given}
    )  # first: a password that was set and never shown is replaced at the next start
    user = get_user_model().objects.create_superuser(email=email, password=password)
    if is_made_up:  # nobody reads what is mailed there
        NoticeSettings.objects.create(owner=user, made_up_email=email)
    return Administrator(email, password, generated=not given, is_new=True)


def unseen_password(user: AbstractBaseUser) -> Administrator:
    """The start that made the password was interrupted before it was shown: make another."""
    password = generated_password()
    user.set_password(password)
    user.save(update_fields=["password"])
    return Administrator(str(user.get_username()), password, generated=True)


def shown(state: State) -> None:
    """The password stands on somebody's screen and is forgotten here."""
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
    """Twenty letters and digits in groups of five: about 119 bits."""
    while True:
        text = "".join(secrets.choice(ALPHABET) for _ in range(20))
        if (
            any(c.islower() for c in text)
            and any(c.isupper() for c in text)
            and any(c.isdigit() for c in text)
        ):
            return "-".join(text[i : i + 5] for i in range(0, 20, 5))
