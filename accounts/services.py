"""What people do with their accounts: log in, log out, make and revoke API keys."""

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

from accounts import audit, passwords, quotas
from accounts.authentication import digest_of
from accounts.models import ApiKey, User, canonical_email
from certctrl import clock, errors
from certctrl.turns import SKEW

log = structlog.get_logger()

MOST_FAILURES_NOTED = 20  # audit events of log-ins that failed, for one user in an hour
MAX_FAILURES = 10  # of one address for one e-mail address
MAX_FAILURES_ANYWHERE = (
    50  # for one e-mail address, of all addresses from which nobody logged in to it lately
)
MAX_FAILURES_OF_ADDRESS = (
    30  # of one address, for all accounts to which nobody logged in from it lately
)
FAILURES_COUNT_FOR = 300  # seconds since the first of them
ADDRESS_IS_KNOWN_FOR = 30 * 86400  # seconds since the latest login from it


def login(request: HttpRequest, email: str, password: str) -> User:
    """Log the user in under a fresh session id. Raises Unauthorized, RateLimited after too many failures, and
    Unavailable while too many passwords wait to be looked at.

    An unknown address, a wrong password and an inactive user are answered in the same words and the same time.
    """
    attempts = Attempts(audit.ip_of(request), email)
    attempts.begin()
    with passwords.hashing(attempts.take_back):
        user = auth.authenticate(request, username=email, password=password)
    if not isinstance(user, User):
        log.info("login.refused", ip=audit.ip_of(request))
        note_failure(request, email)
        raise errors.Unauthorized("The e-mail address or the password is wrong.")
    attempts.forget()
    auth.login(request, user)
    note_login(request, user)
    return user


def note_login(request: HttpRequest, user: User) -> None:
    """Keep the moment of the login in the session, and the login itself in the audit."""
    request.session["auth_time"] = int(clock.now().timestamp())
    audit.record(user, user.email, "user.logged_in", f"user:{user.pk}", audit.ip_of(request))


def note_failure(request: HttpRequest, email: str) -> None:
    """Keep a login that failed in the audit of the user whose address was given, at most twenty in an hour.

    Neither the password is kept, nor an address that nobody has: people type one for the other.
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
    """End the session, where there is one."""
    user = request.user
    if isinstance(user, User):
        audit.record(user, user.email, "user.logged_out", f"user:{user.pk}", audit.ip_of(request))
    auth.logout(request)


def logged_in_at(request: Request) -> int:
    """When the user of this session logged in (epoch seconds); where it does not say, their latest login of all."""
    user: Any = request.user
    since = request._request.session.get("auth_time")
    return int(since or (user.last_login or user.date_joined).timestamp())


def refuse_old_login(request: Request, most: float) -> None:
    """Forbidden when a session's login is more than `most` seconds ago, or in the future, as a clock that was ahead
    writes it; an API key, which expires, has none."""
    age = int(clock.now().timestamp()) - logged_in_at(request)
    if not request.auth and not -SKEW.total_seconds() <= age <= most:
        raise errors.Forbidden("You logged in too long ago for that: log in again to export.")


class Attempts:
    """Log-ins tried for one account: from one address, from everywhere, and those of the address for all accounts.

    An account is its row, whatever spelling of its e-mail address led there; an address is a /64 of IPv6. Counted
    before the password is looked at, so that many at once are not each the first. Where its owner logged in lately,
    only the tries from there for that account count: strangers lock nobody out. Without its cache nothing is counted:
    people can still log in.
    """

    def __init__(self, ip: str | None, email: str) -> None:
        pk = User.objects.named(email).values_list("pk", flat=True).first()
        account = f"user {pk}" if pk else f"unknown {canonical_email(email)}"
        network = audit.network_of(ip) if ip else ""
        self.here = key_of(f"{network} {account}")
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
            raise errors.RateLimited(
                f"Too many attempts; try again in {pause} seconds.", retry_after=pause
            )

    def pause(self) -> int:
        """Seconds to wait before the next try, 0 when this one, which is counted, may go on."""
        pause = self.count(self.here, MAX_FAILURES)
        if pause or cache.get(f"{self.here}:known"):
            return pause
        of_address = self.count(self.address, MAX_FAILURES_OF_ADDRESS) if self.address else 0
        return of_address or self.count(self.anywhere, MAX_FAILURES_ANYWHERE)

    def count(self, key: str, most: int) -> int:
        now = clock.now().timestamp()
        ends = now + FAILURES_COUNT_FOR
        if cache.get(f"{key}:ends", now) > ends + SKEW.total_seconds():
            # Counted while the clock was ahead, and Redis keeps it for as long.
            cache.delete_many([key, f"{key}:ends"])
        cache.add(f"{key}:ends", ends, FAILURES_COUNT_FOR)
        cache.add(key, 0, FAILURES_COUNT_FOR)
        tries = cache.incr(key)
        self.counted.append(key)
        if tries <= most:
            return 0
        return min(max(1, int(cache.get(f"{key}:ends", ends) - now)), FAILURES_COUNT_FOR)

    def forget(self) -> None:
        """After a login: it failed nowhere, nothing failed here, and the address is known."""
        self.take_back()
        try:
            cache.delete_many([self.here, f"{self.here}:ends"])
            cache.set(f"{self.here}:known", True, ADDRESS_IS_KNOWN_FOR)
        except Exception as exc:
            log.warning("login.uncounted", error=type(exc).__name__)

    def take_back(self) -> None:
        """The password was right, or was not looked at: this try does not count."""
        for key in self.counted:
            try:
                cache.decr(key)
            except ValueError:  # the count is over
                continue
            except Exception as exc:
                log.warning("login.uncounted", error=type(exc).__name__)


def key_of(words: str) -> str:
    return "login:" + hashlib.sha256(words.encode()).hexdigest()


def local_path(wanted: str) -> str:
    """Where to go after logging in: a path of this server, `/` for anything else."""
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
    """The new key and its token, which is nowhere to be found afterwards."""
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
def revoke_api_key(key: ApiKey, ip: str | None = None) -> None:
    """From now on the key opens nothing."""
    if ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=clock.now()):
        audit.record(
            key.owner, key.owner.email, "apikey.revoked", f"apikey:{key.pk}", ip, name=key.name
        )
