"""The second factor: codes of an authenticator app (TOTP, RFC 6238), and recovery codes.

The secret is sealed like every other secret. The library django-otp computes the codes.
"""

import base64
import hashlib
import secrets
from datetime import timedelta
from urllib.parse import quote, urlencode

from django.db import transaction
from django.http import HttpRequest
from django.views.decorators.debug import sensitive_variables
from django_otp.oath import TOTP

from accounts import audit, quotas
from accounts.models import User
from certctrl import clock, errors
from certctrl.sentences import sentence as _
from keystore import envelope
from signin import mailedcodes
from signin.models import MailedCode, RecoveryCode, SecondFactor

Purpose = MailedCode.Purpose

PURPOSE = "totp_secret"
DIGITS = 6
TOLERANCE = 1  # steps of 30 s, for a clock that is ahead or behind
RECOVERY_CODES = 10
FREE_FAILURES = 5  # wrong codes in a row, before a pause follows each
FIRST_PAUSE = 30  # seconds; each further failure doubles it
LONGEST_PAUSE = 3600


def is_on(user: User) -> bool:
    """Return whether the user signs in with a second factor."""
    return SecondFactor.objects.filter(user=user, confirmed_at__isnull=False).exists()


@sensitive_variables()
def start(user: User) -> SecondFactor:
    """Store a fresh secret, which does not count until `confirm`. Raise Conflict if one counts."""
    with transaction.atomic():
        quotas.lock(user.pk)
        old = SecondFactor.objects.filter(user=user).first()
        if old and old.confirmed_at:
            raise errors.Conflict(_("You have a second factor. Remove it before you add another."))
        if old:
            delete(old)
        secret = envelope.seal(user, PURPOSE, secrets.token_bytes(20))
        return SecondFactor.objects.create(user=user, secret=secret)


@sensitive_variables()
def secret_of(factor: SecondFactor) -> str:
    """Return the secret in Base32, as people type it into an app."""
    return base64.b32encode(envelope.unseal(factor.secret)).decode()


@sensitive_variables()
def uri_of(factor: SecondFactor, host: str) -> str:
    """Return the `otpauth` address that an app reads from a QR code."""
    label = quote(f"certctrl {host}:{factor.user.email}")
    query = urlencode({"secret": secret_of(factor), "issuer": f"certctrl {host}"}, quote_via=quote)
    return f"otpauth://totp/{label}?{query}"


@sensitive_variables()
def confirm(user: User, code: str, request: HttpRequest) -> list[str]:
    """Let the second factor count, because the app shows the right code.

    Return the recovery codes, which are not stored. Raise Conflict if nothing was started, and
    Invalid if the code is wrong.
    """
    with transaction.atomic():
        factor = SecondFactor.objects.select_for_update().filter(user=user).first()
        if not factor or factor.confirmed_at:
            raise errors.Conflict(_("No second factor waits for its first code. Start again."))
        step = _step_of(factor, code)
        if step is None:
            raise errors.Invalid(
                _(
                    "The code is wrong. Check the clock of your device, and type the code "
                    "that the app shows now."
                ),
                field="code",
            )
        factor.confirmed_at = clock.now()
        factor.last_step = step
        factor.save()
        codes = _make_codes(factor)
        audit.note(user, "second_factor.added", f"user:{user.pk}")
        mailedcodes.tell(user, Purpose.FACTOR_ON, request)
    return codes


@sensitive_variables()
def renew_codes(user: User, request: HttpRequest) -> list[str]:
    """Replace all recovery codes. Return the new ones, which are not stored.

    Raise Conflict if there is no second factor.
    """
    with transaction.atomic():
        factors = SecondFactor.objects.select_for_update().filter(confirmed_at__isnull=False)
        factor = factors.filter(user=user).first()
        if not factor:
            raise errors.Conflict(_("%(email)s has no second factor.", email=user.email))
        factor.recovery_codes.all().delete()
        codes = _make_codes(factor)
        audit.note(user, "second_factor.recovery_codes_renewed", f"user:{user.pk}")
        mailedcodes.tell(user, Purpose.NEW_CODES, request)
    return codes


@sensitive_variables()
def _make_codes(factor: SecondFactor) -> list[str]:
    codes = [mailedcodes.grouped(secrets.token_bytes(10)) for _other in range(RECOVERY_CODES)]
    RecoveryCode.objects.bulk_create(
        [RecoveryCode(factor=factor, digest=_digest(each)) for each in codes]
    )
    return codes


@sensitive_variables()
def check(request: HttpRequest, user: User, code: str) -> None:
    """Accept a code of the app, or a recovery code, once.

    Raise Unauthorized for a wrong code, and RateLimited after too many wrong ones in a row. A
    recovery code is too long to guess, and waits for nothing. So a stranger who has the password
    locks nobody out.
    """
    with transaction.atomic():
        factor = SecondFactor.objects.select_for_update().get(user=user)
        accepted = _accept_recovery_code(request, factor, code)
        if not accepted:
            _refuse_before_next_try(factor)
            accepted = _accept_code_of_app(factor, code)
        if not accepted:
            factor.failures += 1
            factor.next_try_at = clock.now() + _pause(factor.failures)
            _note(request, user, "second_factor.failed", failures=factor.failures)
        else:
            factor.failures = 0
            factor.next_try_at = None
        factor.save()
    if not accepted:
        raise errors.Unauthorized(
            _(
                "The code is wrong, or it was used before. Type the code that the app shows now, "
                "or a recovery code."
            ),
            field="code",
        )


def remove(user: User, request: HttpRequest | None = None) -> None:
    """Remove the second factor. Raise Conflict if there is none."""
    with transaction.atomic():
        factor = SecondFactor.objects.select_for_update().filter(user=user).first()
        if not factor:
            raise errors.Conflict(_("%(email)s has no second factor.", email=user.email))
        if factor.confirmed_at:
            mailedcodes.tell(user, Purpose.FACTOR_OFF, request)
        delete(factor)
        audit.note(user, "second_factor.removed", f"user:{user.pk}")


def delete(factor: SecondFactor) -> None:
    secret = factor.secret
    factor.delete()
    secret.delete()


def recovery_codes_left(user: User) -> int:
    return RecoveryCode.objects.filter(factor__user=user, used_at=None).count()


def _refuse_before_next_try(factor: SecondFactor) -> None:
    now = clock.now()
    longest = now + timedelta(seconds=LONGEST_PAUSE)
    if factor.next_try_at and now < factor.next_try_at <= longest:
        pause = int((factor.next_try_at - now).total_seconds()) + 1
        raise errors.RateLimited(
            _(
                "Too many wrong codes. Try again in %(pause)s seconds, or type a recovery code.",
                pause=pause,
            ),
            retry_after=pause,
        )


def _pause(failures: int) -> timedelta:
    doubled = min(failures - FREE_FAILURES, 20)
    return timedelta(
        seconds=min(FIRST_PAUSE * 2.0 ** (doubled - 1), LONGEST_PAUSE) if doubled > 0 else 0
    )


@sensitive_variables()
def _accept_code_of_app(factor: SecondFactor, code: str) -> bool:
    step = _step_of(factor, code)
    if step is not None:
        factor.last_step = step
    return step is not None


@sensitive_variables()
def _accept_recovery_code(request: HttpRequest, factor: SecondFactor, code: str) -> bool:
    unused = factor.recovery_codes.filter(digest=_digest(code), used_at=None)
    if not unused.update(used_at=clock.now()):
        return False
    _note(request, factor.user, "second_factor.recovery_code_used")
    return True


@sensitive_variables()
def _step_of(factor: SecondFactor, code: str) -> int | None:
    """Return the step of this code if it is right and later than the last one, else None."""
    typed = "".join(code.split())
    if len(typed) != DIGITS or not (typed.isascii() and typed.isdigit()):
        return None
    totp = TOTP(envelope.unseal(factor.secret), digits=DIGITS)
    totp.time = clock.now().timestamp()
    if totp.verify(int(typed), TOLERANCE, min_t=factor.last_step + 1):
        return int(totp.t())
    return None


def _digest(code: str) -> str:
    return hashlib.sha256(mailedcodes.plain(code)).hexdigest()


def _note(request: HttpRequest, user: User, action: str, **detail: int) -> None:
    audit.record(user, user.email, action, f"user:{user.pk}", audit.ip_of(request), **detail)
