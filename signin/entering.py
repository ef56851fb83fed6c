"""Sign in: the first factor, then the second one, then the session.

No way leads around a second factor. A password, a sign-in link and an OpenID provider are first
factors. Between the two factors nothing is stored. The page holds a signed proof instead.
"""

from collections.abc import Sequence

from django.core import signing
from django.http import HttpRequest
from django.views.decorators.debug import sensitive_variables

from accounts import links, services
from accounts.models import User
from certctrl import clock, errors
from certctrl.sentences import sentence as _
from signin import secondfactor

PROOF_AGE = 600  # seconds between the two factors
SALT = "signin.entering"
NEEDED = _("Type the code that your authenticator app shows, or a recovery code.")


@sensitive_variables()
def log_in(request: HttpRequest, email: str, password: str, code: str = "") -> User:
    """Log in with e-mail address and password, and the code of the second factor if there is one.

    Raise CodeNeeded if only the code is missing. See `services.check_password` for others.
    """
    user = services.check_password(request, email, password)
    finish(request, user, ("pwd",), code)
    return user


@sensitive_variables()
def log_in_by_link(request: HttpRequest, token: str) -> User:
    """Log in the user of a sign-in link, once. Raise Unauthorized for a link that is over."""
    user = links.user_of(token)
    finish(request, user, ("link",))
    return user


@sensitive_variables()
def log_in_by_proof(request: HttpRequest, proof: str, code: str) -> User:
    """Log in a user whose first factor was right, with the code of the second one."""
    user, amr = _opened(proof)
    if not code.strip():
        raise CodeNeeded(proof)
    finish(request, user, amr, code)
    return user


def holds(proof: str) -> bool:
    """Return whether the proof still counts, so that only the code was wrong."""
    try:
        _opened(proof)
    except errors.Unauthorized:
        return False
    return True


def _opened(proof: str) -> tuple[User, list[str]]:
    try:
        held = signing.loads(proof, salt=SALT, max_age=PROOF_AGE)
    except signing.BadSignature:
        raise over() from None
    user = User.objects.filter(pk=held["user"], is_active=True).first()
    if not user or held["state"] != _state_of(user):
        raise over()
    return user, list(held["amr"])


def over() -> errors.Unauthorized:
    return errors.Unauthorized(_("This sign-in took too long, or it was used. Sign in again."))


class CodeNeeded(errors.SecondFactorNeeded):
    """The first factor was right. `proof` says so, and goes into the page that asks for a code."""

    def __init__(self, proof: str) -> None:
        super().__init__(NEEDED, field="code")
        self.proof = proof
        self.back = ""  # the page after the sign-in, where the form does not say it


@sensitive_variables()
def finish(request: HttpRequest, user: User, amr: Sequence[str], code: str = "") -> None:
    """Check the second factor, if the user has one, and begin the session."""
    if secondfactor.is_on(user):
        if not code.strip():
            held = {"user": user.pk, "amr": list(amr), "state": _state_of(user)}
            raise CodeNeeded(signing.dumps(held, salt=SALT))
        secondfactor.check(request, user, code)
        amr = (*amr, "otp", "mfa")
    # A link and a proof work once, because each sign-in changes `last_login`.
    seen = User.objects.filter(pk=user.pk, last_login=user.last_login, is_active=True)
    if amr[0] != "pwd" and not seen.update(last_login=clock.now()):
        raise over()  # another request used it at the same moment
    services.begin_session(request, user, amr)


@sensitive_variables()
def confirm(request: HttpRequest, user: User, password: str, code: str) -> None:
    """Make the login of the session fresh, by all factors with which the user signs in.

    A user without a password has only the code to show. Raise SecondFactorNeeded if the code is
    missing. See `services.check_password` and `secondfactor.check` for others.
    """
    has_factor = secondfactor.is_on(user)
    if has_factor and not code.strip():
        raise errors.SecondFactorNeeded(NEEDED, field="code")
    if user.has_usable_password() or not has_factor:
        services.check_password(request, user.email, password)
    if has_factor:
        secondfactor.check(request, user, code)
    services.confirm_login(request)


def _state_of(user: User) -> str:
    """Return what a sign-in and a new password change, so that both end a proof."""
    return f"{user.last_login} {user.get_session_auth_hash()[:16]}"
