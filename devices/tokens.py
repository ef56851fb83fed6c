"""Access tokens and refresh tokens of devices. The lifetimes are in docs/reference/devices.md.

An access token is a JWT (RFC 7519). A refresh token is `rt_<family>.<secret>`, and is used once.
The next secret is derived from the one that is spent. So the same spent token yields the same
successor, if the response to a refresh was lost.
"""

import base64
import hmac
import os
import re
import secrets
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import jwt
from django.db import transaction
from django.utils.crypto import salted_hmac

from accounts import audit
from accounts.authentication import digest_of
from certctrl import clock, errors
from certctrl.errors import RefreshTokenRotated
from certctrl.sentences import sentence as _
from devices import waking
from devices.models import Device, DeviceSession

ACCESS_LIFETIME = timedelta(hours=1)
REFRESH_LIFETIME = timedelta(days=30)
UNKNOWN = ""  # the digest of a session whose newest token a restore does not know
GRACE = timedelta(seconds=30)  # in which a spent token yields its successor again
ALGORITHM = "HS256"
ISSUER = "certctrl"
AUDIENCE = "certctrl devices"
REFRESH_TOKEN = re.compile(r"rt_([0-9a-f]{32})\.([A-Za-z0-9_-]{43})")
RANDOM = 24  # bytes of a secret; the other 8 are the mark of its family


@dataclass(frozen=True)
class AccessClaims:
    """The claims of an access token whose signature and times are right."""

    user_id: str
    device_id: int
    family: str


def access_token(device: Device, session: DeviceSession) -> str:
    now = int(clock.now().timestamp())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(device.owner_id),
        "device_id": device.pk,
        "sid": session.family,
        "iat": now,
        "exp": now + int(ACCESS_LIFETIME.total_seconds()),
    }
    return jwt.encode(claims, access_key(), algorithm=ALGORITHM)


def read_access_token(token: str) -> AccessClaims:
    """Return the claims. Raise Unauthorized, or Invalid if `device_id` is not in the claims.

    The algorithm is fixed, because a token must not choose how it is checked (RFC 8725, section
    3.1).
    """
    options: Any = {"require": ["exp", "sub"], "verify_iat": False}
    try:
        claims = jwt.decode(
            token,
            access_key(),
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            issuer=ISSUER,
            options=options,
        )
    except jwt.InvalidTokenError:
        raise errors.Unauthorized(
            _("The access token is wrong or expired. Refresh it: POST /auth/refresh.")
        ) from None
    device_id = str(claims.get("device_id", ""))
    if not re.fullmatch("[1-9][0-9]{0,17}", device_id):
        raise errors.Invalid(_("The access token names no device (device_id). Log in again."))
    return AccessClaims(claims["sub"], int(device_id), str(claims.get("sid", "")))


def access_key() -> bytes:
    return salted_hmac("certctrl.devices.access", "", algorithm="sha256").digest()


def start_session(device: Device) -> dict[str, Any]:
    """End the sessions of the device and start another. Return its tokens."""
    now = clock.now()
    end_sessions(device)
    DeviceSession.objects.filter(device=device, expires_at__lt=now).delete()
    seal = os.urandom(16)
    secret = sealed(seal, os.urandom(RANDOM))
    session = DeviceSession.objects.create(
        device=device,
        family=secrets.token_hex(16),
        seal=seal,
        digest=digest_of(secret),
        rotated_at=now,
        expires_at=now + REFRESH_LIFETIME,
    )
    return tokens(session, secret)


def end_sessions(device: Device) -> None:
    """Refuse all tokens of the device from now on. Its connections end after the commit."""
    DeviceSession.objects.filter(device=device, ended_at=None).update(ended_at=clock.now())
    transaction.on_commit(partial(waking.wake, [device.pk]), robust=True)


def refresh(token: str, ip: str | None) -> dict[str, Any]:
    """Spend a refresh token. Return the new tokens.

    Raise RefreshTokenRotated for a spent token, and end its family. Raise Unauthorized for any
    other token that is not valid.
    """
    session, secret = find(token)
    successor = rotate(session, secret)
    if successor:
        return tokens(session, successor)
    end_family(session, ip)
    raise RefreshTokenRotated(_("Refresh token has been rotated"))


def find(token: str) -> tuple[DeviceSession, str]:
    """Return the session of a refresh token that was valid at some time, and its secret."""
    found = REFRESH_TOKEN.fullmatch(token)
    family, secret = found.groups() if found else ("", "")
    of_active = DeviceSession.objects.filter(device__owner__is_active=True)
    session = of_active.filter(family=family).select_related("device__owner").first()
    if session is None or not is_of_family(session, secret):
        raise unknown()
    return session, secret


def rotate(session: DeviceSession, secret: str) -> str | None:
    """Spend the secret and return its successor. Return None if it was spent before.

    A secret that was spent within `GRACE`, and whose successor is not spent, yields the same
    successor. Raise Unauthorized if the session has ended or expired.
    """
    successor = successor_of(session, secret)
    now = clock.now()
    session_row = DeviceSession.objects.filter(pk=session.pk)
    # Without a join, so that PostgreSQL checks the digest again when it has waited for the row.
    spent = session_row.live().filter(digest__in=[digest_of(secret), UNKNOWN])
    if spent.update(
        digest=digest_of(successor),
        spent_digest=digest_of(secret),
        rotated_at=now,
        expires_at=now + REFRESH_LIFETIME,
    ):
        return successor
    row = session_row.get()
    if digest_of(secret) == row.digest:
        raise unknown()
    is_latest = digest_of(secret) == row.spent_digest
    if is_latest and row.ended_at is None and now - row.rotated_at <= GRACE:
        return successor
    return None


def accept_any_once() -> None:
    """Accept any one token of each open session, because a backup was restored.

    The device may have spent tokens since the backup, and this server cannot know the newest one.
    Only a token that this server made fits the family (`is_of_family`). When two are used, the
    second ends the family, as a spent token does.
    """
    DeviceSession.objects.live().update(digest=UNKNOWN, spent_digest="")


@transaction.atomic
def end_family(session: DeviceSession, ip: str | None) -> None:
    """End the session because a spent token was used. The token may have been stolen."""
    if DeviceSession.objects.filter(pk=session.pk, ended_at=None).update(ended_at=clock.now()):
        device = session.device
        transaction.on_commit(partial(waking.wake, [device.pk]), robust=True)
        audit.record(
            device.owner,
            f"device {device.public_id}",
            "device.tokens_revoked",
            f"device:{device.pk}",
            ip,
            why="a spent refresh token was used",
        )


def tokens(session: DeviceSession, secret: str) -> dict[str, Any]:
    return {
        "access_token": access_token(session.device, session),
        "refresh_token": f"rt_{session.family}.{secret}",
        "token_type": "Bearer",
        "expires_in": int(ACCESS_LIFETIME.total_seconds()),
    }


def unknown() -> errors.Unauthorized:
    return errors.Unauthorized(
        _("The refresh token is unknown, expired or revoked. Enrol the device again.")
    )


# --- The secret: random bytes and the mark of their family, in base64 ---


def sealed(seal: bytes, random: bytes) -> str:
    mark = hmac.digest(seal, random, "sha256")[: 32 - RANDOM]
    return base64.urlsafe_b64encode(random + mark).decode().rstrip("=")


def is_of_family(session: DeviceSession, secret: str) -> bool:
    random = base64.urlsafe_b64decode(secret + "=")[:RANDOM]
    return hmac.compare_digest(sealed(bytes(session.seal), random), secret)


def successor_of(session: DeviceSession, secret: str) -> str:
    following = salted_hmac("certctrl.devices.refresh", secret, algorithm="sha256").digest()
    return sealed(bytes(session.seal), following[:RANDOM])
