"""The device code grant (RFC 8628): a device starts, a person decides, the device polls.

The registration code is derived from the device code. So each poll returns the same code, and only
its SHA-256 is stored.
"""

import base64
import secrets
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils.crypto import salted_hmac

from accounts import audit
from accounts.authentication import digest_of
from accounts.models import User
from certctrl import clock, errors, retention
from certctrl.sentences import sentence as _
from devices.models import Device, DeviceCode

Decision = DeviceCode.Decision
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # no pair that people confuse
REGISTRATION_LIFETIME = timedelta(minutes=10)
KEPT_AFTER_END = timedelta(hours=1)  # so that a late poll reads "expired"
JITTER = 0.9  # of the interval: the network may bring two polls closer together
PAGE = "/device"


def start(interval: int, expires_in: int, origin: str) -> dict[str, Any]:
    """Create a pair of codes. `origin` is the address by which the device called this server."""
    now = clock.now()
    retention.delete(DeviceCode.objects.filter(expires_at__lt=now - KEPT_AFTER_END))
    device_code = "dc_" + secrets.token_urlsafe(32)
    user_code = "-".join("".join(secrets.choice(LETTERS) for _ in range(4)) for _ in range(2))
    DeviceCode.objects.create(
        digest=digest_of(device_code),
        user_code=user_code,
        interval=interval,
        expires_at=now + timedelta(seconds=expires_in),
    )
    page = f"{origin}{settings.URL_PREFIX}{PAGE}"
    return {
        "device_code": device_code,
        "user_code": user_code,
        "verification_uri": page,
        "verification_uri_complete": f"{page}?user_code={user_code}",
        "interval": interval,
        "expires_in": expires_in,
    }


@transaction.atomic
def decide(user: User, user_code: str, approve: bool, ip: str | None) -> str:
    """Approve or deny a device. Return the decision.

    Raise NotFound if the code is unknown, expired, or decided by another person. Raise Conflict if
    this person decided differently before.
    """
    decision = Decision.APPROVED if approve else Decision.DENIED
    row = (
        DeviceCode.objects.select_for_update()
        .filter(Q(user=None) | Q(user=user), user_code=user_code, expires_at__gt=clock.now())
        .first()
    )
    if row is None:
        raise errors.NotFound(
            _(
                "There is no device with the code %(user_code)s, or it has expired. Compare "
                "it with the code that the device shows.",
                user_code=user_code,
            ),
            field="user_code",
        )
    if row.user and row.decision != decision:
        raise errors.Conflict(
            _(
                "You have already %(decision)s the code %(user_code)s.",
                decision=row.decision,
                user_code=user_code,
            )
        )
    if not row.user:
        row.user, row.decision = user, decision
        row.save(update_fields=["user", "decision"])
        audit.record(user, user.email, f"device.{decision}", f"device code:{row.pk}", ip)
    return decision


@transaction.atomic
def poll(device_code: str) -> dict[str, Any]:
    """Return the status of the grant. Raise Invalid for an unknown code."""
    row = DeviceCode.objects.select_for_update().filter(digest=digest_of(device_code)).first()
    if row is None:
        raise errors.Invalid(
            _("device_code is unknown. Start again with the action device_start."),
            field="device_code",
        )
    now = clock.now()
    if row.decision == Decision.DENIED:
        return {"status": "access_denied"}
    if row.decision == Decision.APPROVED:
        return ready(row, device_code)
    if row.expires_at <= now:
        return {"status": "expired"}
    earlier, row.polled_at = row.polled_at, now
    row.save(update_fields=["polled_at"])
    if earlier and now - earlier < timedelta(seconds=row.interval * JITTER):
        return {"status": "slow_down"}
    return {"status": "authorization_pending"}


def ready(row: DeviceCode, device_code: str) -> dict[str, Any]:
    """Return the registration code while it is valid and unused."""
    now = clock.now()
    code = registration_code(device_code)
    if row.registration_expires_at is None and row.expires_at > now:
        row.registration_digest = digest_of(code)
        row.registration_expires_at = now + REGISTRATION_LIFETIME
        row.save(update_fields=["registration_digest", "registration_expires_at"])
    ends = row.registration_expires_at
    if ends is None or ends <= now or row.used_by_id:
        return {"status": "expired"}
    return {
        "status": "ready",
        "registration_code": code,
        "registration_code_ttl": max(1, int((ends - now).total_seconds())),
        "user_id": row.user_id,
    }


def registration_code(device_code: str) -> str:
    derived = salted_hmac("certctrl.devices.registration", device_code, algorithm="sha256")
    return "rc_" + base64.urlsafe_b64encode(derived.digest()).decode().rstrip("=")


def take(code: str, user_id: int, public_id: str) -> DeviceCode:
    """Lock the grant of a registration code and return it. Raise Unauthorized if it is not valid.

    A used code is valid for the same device again, because the response may have been lost.
    """
    # Without a join, so that PostgreSQL checks the row again when it has waited for the lock.
    row = (
        DeviceCode.objects.select_for_update()
        .filter(
            registration_digest=digest_of(code),
            registration_expires_at__gt=clock.now(),
            user=user_id,
        )
        .first()
    )
    if row is None or not is_usable(row, public_id):
        raise errors.Unauthorized(
            _(
                "The registration code is unknown, expired or used, or it is another user's. "
                "Start the login of the device again."
            )
        )
    return row


def is_usable(row: DeviceCode, public_id: str) -> bool:
    is_free = row.used_by is None or row.used_by.public_id == public_id
    return is_free and row.user is not None and row.user.is_active


def spend(row: DeviceCode, device: Device) -> None:
    DeviceCode.objects.filter(pk=row.pk).update(used_by=device)
