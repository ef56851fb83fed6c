"""Actions of users on their accounts: check a password, log out, API keys."""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import structlog
from django.contrib import auth
from django.core.cache import cache
from django.db import transaction
from django.http import HttpRequest
from django.utils.http import url_has_allowed_host_and_scheme
from rest_framework.request import Request

from accounts import audit, browsers, passwords, quotas, sessions
from accounts.authentication import digest_of
from accounts.models import ApiKey, User, canonical_email
from certctrl import clock, errors
from certctrl.sentences import sentence as _
from certctrl.turns import SKEW

log = structlog.get_logger()

BY_PASSWORD = "pwd"  # noqa: S105  (a way to be identified, RFC 8176)
MOST_FAILURES_NOTED = 20  # audit events of failed logins, for each user and hour
# An address is "known" to an account for ADDRESS_IS_KNOWN_FOR after a login from there.
MAX_FAILURES = 10  # from one address, for one account
MAX_FAILURES_ANYWHERE = 50  # for one account, from all addresses that are not known to it
MAX_FAILURES_OF_ADDRESS = 30  # from one address, for all accounts that do not know it
FAILURES_COUNT_FOR = 300  # seconds since the first failure
ADDRESS_IS_KNOWN_FOR = 30 * 86400  # seconds since the latest login from it


def check_password(request: HttpRequest, email: str, password: str) -> User:
    """Return the user with this e-mail address and this password. It does not log in.

    Raise Unauthorized if the e-mail address or the password is wrong. Raise RateLimited after too
    many failures. Raise Unavailable while too many passwords wait for their check. An unknown
    address, a wrong password and an inactive user get the same answer in the same time.
    """
    attempts = Attempts(request, email)
    attempts.begin()
    with passwords.hashing(attempts.take_back):
        user = auth.authenticate(request, username=email, password=password)
    if not isinstance(user, User):
        log.info("login.refused", ip=audit.ip_of(request))
        note_failure(request, email)
        raise errors.Unauthorized(_("The e-mail address or the password is wrong. Check both."))
    attempts.forget()
    return user


def begin_session(request: HttpRequest, user: User, amr: Sequence[str]) -> None:
    """Log the user in under a fresh session id. `amr` says how the user was identified.

    The values of `amr` are those of RFC 8176, for example `pwd` and `otp`.
    """
    auth.login(request, user)
    if BY_PASSWORD in amr:
        browsers.note_sign_in(request, user)
    ip = audit.ip_of(request)
    request.session["auth_time"] = int(clock.now().timestamp())
    request.session["amr"] = list(amr)
    request.session["ip"] = ip
    request.session["agent"] = request.headers.get("User-Agent", "")[: sessions.AGENT]
    audit.record(user, user.email, "user.logged_in", f"user:{user.pk}", ip, amr=list(amr))


def note_failure(request: HttpRequest, email: str) -> None:
    """Write a failed login into the audit log of the user with this address.

    At most `MOST_FAILURES_NOTED` are written in an hour. The password is not stored. An unknown
    address is not stored either, because people sometimes type the password as the address.
    """
    user = User.objects.filter(email__iexact=canonical_email(email)).first()
    if not user:
        return
    since = clock.now() - timedelta(hours=1)
    noted = user.audit_events.filter(action="user.login_failed", at__gt=since).count()
    if noted < MOST_FAILURES_NOTED:
        last = (
            {"more_are_not_kept_until": "an hour later"} if noted == MOST_FAILURES_NOTED - 1 else {}
        )
        audit.record(
            user, "somebody", "user.login_failed", f"user:{user.pk}", audit.ip_of(request), **last
        )


def logout(request: HttpRequest) -> None:
    """End the session, if there is one."""
    user = request.user
    if isinstance(user, User):
        audit.record(user, user.email, "user.logged_out", f"user:{user.pk}", audit.ip_of(request))
    auth.logout(request)


def logged_in_at(request: Request | HttpRequest) -> int:
    """Return when the user of this session logged in, in epoch seconds.

    If the session has no login time, return the latest login of the user. A user without a login
    has the time of its creation.
    """
    user: Any = request.user
    since = getattr(request, "_request", request).session.get("auth_time")
    return int(since or (user.last_login or user.date_joined).timestamp())


def refuse_old_login(request: Request | HttpRequest, most: float) -> None:
    """Raise Forbidden if the session's login is more than `most` seconds ago.

    A login more than `SKEW` in the future is refused too. A clock that was ahead writes such a
    time. API keys are not checked, because they expire.
    """
    age = int(clock.now().timestamp()) - logged_in_at(request)
    if not getattr(request, "auth", None) and not -SKEW.total_seconds() <= age <= most:
        raise errors.Forbidden(_("Your login is too old for this request. Log in again."))


def confirm_login(request: HttpRequest) -> None:
    """Make the login of this session fresh. The user has just been identified again."""
    request.session["auth_time"] = int(clock.now().timestamp())
    user: Any = request.user
    audit.note(user, "user.confirmed", f"user:{user.pk}")


class Attempts:
    """Counts login tries, with three counters.

    - for one account from one address
    - for one account from all addresses
    - from one address for all accounts

    The account is the user's row, so the spelling of the e-mail address does not matter. An IPv6
    address counts as its /64. A try is counted before the password is checked, so that parallel
    tries are all counted. At an address that is known to the account, only the first counter is
    used. In a browser that is known to the account, or has its session, it is that of the browser
    instead of that of the address. Therefore strangers cannot lock the owner out. If the cache
    fails, tries are not counted and people can still log in.
    """

    def __init__(self, request: HttpRequest, email: str) -> None:
        pk = User.objects.named(email).values_list("pk", flat=True).first()
        account = f"user {pk}" if pk else f"unknown {canonical_email(email)}"
        ip = audit.ip_of(request)
        network = audit.network_of(ip) if ip else ""
        browser = _browser_of(request, pk) if pk else ""
        self.of_network = key_of(f"{network} {account}")
        self.here = key_of(f"{browser} {account}") if browser else self.of_network
        self.address = key_of(f"address {network}") if network else ""
        self.anywhere = key_of(account)
        self.counted: list[str] = []

    def begin(self) -> None:
        try:
            pause = self.pause()
        except Exception as exc:  # whatever the cache's client raises
            log.warning("login.uncounted", error=type(exc).__name__)
            return
        if pause:
            # Tries refused by the other two counters must not use up the account's own tries.
            self.take_back()
            raise errors.RateLimited(
                _("Too many attempts. Try again in %(pause)s seconds.", pause=pause),
                retry_after=pause,
            )

    def pause(self) -> int:
        """Count this try. Return 0 if it may continue, else the seconds until the next try."""
        pause = self.count(self.here, MAX_FAILURES)
        if pause or self.here != self.of_network or cache.get(f"{self.of_network}:known"):
            return pause
        of_address = self.count(self.address, MAX_FAILURES_OF_ADDRESS) if self.address else 0
        return of_address or self.count(self.anywhere, MAX_FAILURES_ANYWHERE)

    def count(self, key: str, most: int) -> int:
        now = clock.now().timestamp()
        ends = now + FAILURES_COUNT_FOR
        if cache.get(f"{key}:ends", now) > ends + SKEW.total_seconds():
            # The counter was started while the clock was ahead. Redis would keep it too long.
            cache.delete_many([key, f"{key}:ends"])
        cache.add(f"{key}:ends", ends, FAILURES_COUNT_FOR)
        cache.add(key, 0, FAILURES_COUNT_FOR)
        tries = cache.incr(key)
        self.counted.append(key)
        if tries <= most:
            return 0
        return min(max(1, int(cache.get(f"{key}:ends", ends) - now)), FAILURES_COUNT_FOR)

    def forget(self) -> None:
        """Forget this try and all failures for the account from this address.

        Call this method after a login. The address becomes known to the account.
        """
        self.take_back()
        try:
            cache.delete_many([self.here, f"{self.here}:ends"])
            cache.set(f"{self.of_network}:known", True, ADDRESS_IS_KNOWN_FOR)
        except Exception as exc:
            log.warning("login.uncounted", error=type(exc).__name__)

    def take_back(self) -> None:
        """Remove this try from the counters.

        Call this method if the password was right, or was not checked. A second call does nothing.
        """
        counted = self.counted
        self.counted = []
        for key in counted:
            try:
                cache.decr(key)
            except ValueError:  # the counter has expired
                continue
            except Exception as exc:
                log.warning("login.uncounted", error=type(exc).__name__)


def _browser_of(request: HttpRequest, user_id: int) -> str:
    """Return a name for the browser if it is known to the user, or has a session of the user.

    Only a sign-in with the password counts. Otherwise somebody who can sign in without it could
    guess it: each sign-in would give new tries.
    """
    is_own = getattr(getattr(request, "user", None), "pk", None) == user_id
    if is_own and BY_PASSWORD in request.session.get("amr", [BY_PASSWORD]):
        return f"session {request.session.session_key}"
    browser = browsers.known_as(request, user_id)
    return f"browser {browser}" if browser else ""


def key_of(words: str) -> str:
    return "login:" + hashlib.sha256(words.encode()).hexdigest()


def local_path(wanted: str) -> str:
    """Return `wanted` if it is a path of this server, else `/`."""
    is_path = wanted.startswith("/") and url_has_allowed_host_and_scheme(wanted, allowed_hosts=None)
    return wanted if is_path else "/"


@transaction.atomic
def create_api_key(
    owner: User,
    name: str,
    expires_in_seconds: int,
    permissions: Sequence[dict[str, Any]],
    ip: str | None = None,
) -> tuple[ApiKey, str]:
    """Create an API key. Return it with its token, which is not stored.

    Raise QuotaExceeded if the owner has too many keys.
    """
    quotas.refuse_more(owner, "api_keys")
    token = ApiKey.MARK + secrets.token_urlsafe(32)
    key = ApiKey.objects.create(
        owner=owner,
        name=name,
        prefix=token[:11],
        digest=digest_of(token),
        permissions=list(permissions),
        expires_at=clock.now() + timedelta(seconds=expires_in_seconds),
    )
    audit.record(
        owner,
        owner.email,
        "apikey.created",
        f"apikey:{key.pk}",
        ip,
        name=name,
        permissions=key.permissions,
    )
    return key, token


@transaction.atomic
def revoke_api_key(key: ApiKey) -> bool:
    """Revoke the key, with immediate effect. Return False if it is already revoked."""
    fresh = ApiKey.objects.filter(pk=key.pk, revoked_at=None)
    if not fresh.update(revoked_at=clock.now()):
        return False
    audit.note_row(key, "apikey.revoked", name=key.name)
    return True


@transaction.atomic
def lock_out(user: User) -> None:
    """End the sessions of the user, and accept no sign-in, API key or device of theirs.

    Raise Conflict if the user is locked out already.
    """
    if not User.objects.filter(pk=user.pk, is_active=True).update(is_active=False):
        raise errors.Conflict(_("%(email)s is locked out already.", email=user.email))
    user.sessions.all().delete()
    audit.note(user, "user.locked_out", f"user:{user.pk}")


@transaction.atomic
def let_in(user: User) -> None:
    """Accept the user again. Raise Conflict if the user is not locked out."""
    if not User.objects.filter(pk=user.pk, is_active=False).update(is_active=True):
        raise errors.Conflict(_("%(email)s is not locked out.", email=user.email))
    audit.note(user, "user.let_in", f"user:{user.pk}")
