"""Register, confirm the address, set a new password, change one's own account."""

import re

from django.conf import settings
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.hashers import check_password, make_password
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.http import HttpRequest
from django.views.decorators.debug import sensitive_variables

from accounts import audit, passwords, services, sessions
from accounts.models import User, canonical_email
from certctrl import errors
from certctrl.sentences import Sentence, joined
from certctrl.sentences import sentence as _
from signin import mailedcodes
from signin.models import MailedCode

Purpose = MailedCode.Purpose
NAME = re.compile(r"[A-Za-z0-9._-]{3,64}", re.ASCII)
COUNTRY = re.compile(r"[A-Za-z]{2}", re.ASCII)


def refuse_closed() -> None:
    """Raise Forbidden if nobody may register."""
    if settings.REGISTRATION == "closed":
        raise errors.Forbidden(_("Registration is closed. Ask the operator for an account."))


def refuse_bad_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise errors.Invalid(
            _("A name has 3 to 64 letters, digits, dots, hyphens or underscores. Choose another."),
            field="name",
        )


def refuse_bad_country(country: str) -> None:
    if country and not COUNTRY.fullmatch(country):
        raise errors.Invalid(
            _("A country has two letters, for example DE."), field="country_of_residence"
        )


@sensitive_variables()
def refuse_weak(password: str, user: User | None = None, field: str = "password") -> None:
    try:
        validate_password(password, user)
    except ValidationError as exc:
        said = [
            each.message if isinstance(each.message, Sentence) else str(each.message)
            for each in exc.error_list
        ]
        raise errors.Invalid(joined(" ", said), field=field) from None


@sensitive_variables()
def register(
    request: HttpRequest, email: str, password: str, name: str, country_of_residence: str = ""
) -> None:
    """Ask for a new user. A code goes to the address, and `activate` makes the user.

    Raise Forbidden if registration is closed. Raise Conflict if the address and this password are
    those of a user. Without the right password the answer does not say that there is a user. One
    password is hashed in each case.
    """
    refuse_closed()
    refuse_bad_name(name)
    refuse_bad_country(country_of_residence)
    refuse_weak(password)
    attempts = services.Attempts(request, email)
    attempts.begin()
    user = User.objects.named(email).first()
    with passwords.hashing(attempts.take_back):
        is_known = bool(user and user.check_password(password) and user.is_active)
        hashed = "" if user else make_password(password)
    if is_known:
        raise errors.Conflict(_("You have an account with this address. Sign in."))
    mailedcodes.request_code(
        request,
        Purpose.REGISTER,
        email,
        typed_email=User.objects.normalize_email(email),
        name=name,
        country_of_residence=country_of_residence.upper(),
        password=hashed,
    )


@sensitive_variables()
def activate(request: HttpRequest, email: str, code: str, password: str | None = None) -> User:
    """Make the user that registered, because the code shows that the address is theirs.

    Raise Invalid for a wrong code, or for another password than that of the registration. If two
    networks registered the address, a code might belong to the password of somebody else. Without
    a password, only the codes of the network of this request then count. Raise Conflict if it has
    none.
    """
    network = None
    if password is None and _is_contested(email):
        network = mailedcodes.network_of(request)
        if not mailedcodes.open_codes(Purpose.REGISTER, email, network=network).exists():
            raise errors.Conflict(
                _(
                    "This address was registered more than once. Send the password of your "
                    "registration too, or register again."
                )
            )
    row = mailedcodes.find(Purpose.REGISTER, email, code, network=network)
    if not row.password:  # there was a user, so no code was mailed
        raise errors.Conflict(_("This address has an account. Sign in."))
    if password is not None:
        with passwords.hashing(lambda: None):
            is_own = check_password(password, row.password)
        if not is_own:
            raise errors.Invalid(
                _(
                    "This is not the password of the registration that the code belongs to. "
                    "Register again."
                ),
                field="password",
            )
    mailedcodes.spend(row)
    user = User(
        email=row.typed_email,
        name=row.name,
        country_of_residence=row.country_of_residence,
        language=row.language or settings.LANGUAGE_CODE,
        password=row.password,
    )
    try:
        with transaction.atomic():
            user.save(force_insert=True)
            audit.record(
                user, user.email, "user.registered", f"user:{user.pk}", audit.ip_of(request)
            )
    except IntegrityError:
        raise errors.Conflict(_("This address has an account by now. Sign in.")) from None
    return user


def _is_contested(email: str) -> bool:
    networks = mailedcodes.open_codes(Purpose.REGISTER, email).values("network").distinct()
    return networks.count() > 1


def request_reset(request: HttpRequest, email: str) -> None:
    """Mail a code that sets a new password, if there is a user with this address."""
    mailedcodes.request_code(request, Purpose.RESET, email)


@sensitive_variables()
def reset_password(request: HttpRequest, email: str, code: str, password: str) -> User:
    """Set a new password. All sessions of the user end. A second factor stays.

    The network of the request becomes known to the account. So the owner can sign in there, however
    many wrong passwords strangers send. A wrong code hashes no password.

    Raise Invalid for a wrong code or a weak password.
    """
    refuse_weak(password, field="new_password")
    row = mailedcodes.find(Purpose.RESET, email, code)
    with passwords.hashing(lambda: None):
        hashed = make_password(password)
    mailedcodes.spend(row)
    user = User.objects.named(email).filter(is_active=True).first()
    if not user:
        raise errors.Invalid(_("This account is not active. Ask the operator."), field="email")
    with transaction.atomic():
        user.password = hashed
        user.save(update_fields=["password"])
        user.sessions.all().delete()
        audit.record(
            user, user.email, "user.password_reset", f"user:{user.pk}", audit.ip_of(request)
        )
        mailedcodes.tell(user, Purpose.PASSWORD, request)
    services.Attempts(request, email).forget()
    return user


@sensitive_variables()
def change_password(request: HttpRequest, user: User, old: str, new: str) -> int:
    """Change the password. Return how many other sessions ended.

    Raise Unauthorized for a wrong old password, and Invalid for a weak new one.
    """
    if not user.has_usable_password():
        raise errors.Conflict(_("You sign in at another server, so you have no password here."))
    refuse_weak(new, user, field="new_password")
    services.check_password(request, user.email, old)
    with passwords.hashing(lambda: None):
        user.set_password(new)
    with transaction.atomic():
        user.save(update_fields=["password"])
        update_session_auth_hash(request, user)
        request.session.save()
        ended = sessions.end_others(request, user)
        audit.note(user, "user.password_changed", f"user:{user.pk}")
        mailedcodes.tell(user, Purpose.PASSWORD, request)
    return ended


def change_name(user: User, name: str, country: str) -> None:
    refuse_bad_name(name)
    refuse_bad_country(country)
    user.name = name
    user.country_of_residence = country.upper()
    user.save(update_fields=["name", "country_of_residence"])
    audit.note(user, "user.renamed", f"user:{user.pk}")


def choose_language(user: User, language: str) -> None:
    """Set the language of the mails to the user. Raise Invalid for one that this server lacks."""
    known = [code for code, _name in settings.LANGUAGES]
    if language not in known:
        raise errors.Invalid(
            _("There is no such language. Choose one of %(known)s.", known=", ".join(known)),
            field="language",
        )
    user.language = language
    user.save(update_fields=["language"])


def request_new_address(request: HttpRequest, user: User, email: str) -> None:
    """Mail a code to a new address. It becomes the user's with `confirm_new_address`."""
    if canonical_email(email) == canonical_email(user.email):
        raise errors.Invalid(_("This is your address already. Type another one."), field="email")
    typed = User.objects.normalize_email(email)
    mailedcodes.request_code(request, Purpose.CHANGE, email, user, typed_email=typed)


def confirm_new_address(request: HttpRequest, user: User, email: str, code: str) -> None:
    """Make the address that of the user, and tell the old one. Raise Invalid for a wrong code."""
    row = mailedcodes.find(Purpose.CHANGE, email, code, user)
    mailedcodes.spend(row)
    before = user.email
    try:
        with transaction.atomic():
            user.email = row.typed_email
            user.save(update_fields=["email"])
            audit.record(
                user,
                before,
                "user.address_changed",
                f"user:{user.pk}",
                audit.ip_of(request),
                email=user.email,
            )
            mailedcodes.tell(user, Purpose.ADDRESS, request, before)
    except IntegrityError:
        user.email = before
        raise errors.Conflict(
            _("Another user has this address by now. Type another one.")
        ) from None
