"""Authentication of devices by their access token. It reads one row."""

import re
from collections.abc import Collection
from datetime import timedelta
from typing import Any

import structlog
from django.db import OperationalError
from django.db.models import Exists, OuterRef
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from accounts.models import User
from certctrl import clock, errors
from certctrl.sentences import sentence as _
from devices import tokens
from devices.models import Device, DeviceSession
from devices.tokens import AccessClaims

log = structlog.get_logger()

BEARER = re.compile(r"bearer\s+(\S*)", re.IGNORECASE)
SEEN_IS_NOTED_EVERY = timedelta(minutes=5)


class DeviceAuthentication(BaseAuthentication):
    """Authentication by `Authorization: Bearer <JWT>`. `request.auth` is then the Device.

    Raise Unauthorized for a token that is not valid, or whose session has ended. Raise Forbidden
    if the device is absent, another owner's, or revoked.
    """

    def authenticate(self, request: Request) -> tuple[User, Device] | None:
        header = request.headers.get("Authorization", "")
        if not BEARER.match(header):
            return None
        device = device_of(tokens.read_access_token(token_of(header)))
        return device.owner, device

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="certctrl"'


def token_of(header: str) -> str:
    """Return the token of the header Authorization. Raise NotLoggedIn if it has none."""
    found = BEARER.fullmatch(header.strip())
    if found is None:
        raise not_logged_in()
    return found[1]


def not_logged_in() -> errors.NotLoggedIn:
    return errors.NotLoggedIn(_("Send the access token of the device: Authorization: Bearer ..."))


def device_of(claims: AccessClaims) -> Device:
    """Return the device that the claims name. Raise Unauthorized or Forbidden."""
    session = DeviceSession.objects.filter(
        device=OuterRef("pk"), family=claims.family, ended_at=None
    )
    device = (
        Device.objects.filter(pk=claims.device_id)
        .select_related("owner")
        .annotate(has_session=Exists(session))
        .first()
    )
    if device is None or not is_usable(device, claims.user_id):
        raise errors.Forbidden(_("This device does not exist, or it was revoked. Enrol it again."))
    if not device.has_session:
        raise errors.Unauthorized(_("The session of this device has ended. Enrol it again."))
    note_seen(device)
    return device


def is_usable(device: Device, user_id: str) -> bool:
    is_owner = str(device.owner_id) == user_id
    return is_owner and device.status == Device.Status.ACTIVE and device.owner.is_active


def note_seen(device: Device) -> None:
    """Write `last_seen_at`, at most once per `SEEN_IS_NOTED_EVERY`."""
    now = clock.now()
    if now - SEEN_IS_NOTED_EVERY < device.last_seen_at <= now:
        return
    try:
        Device.objects.filter(pk=device.pk).update(last_seen_at=now)
    except OperationalError as exc:
        # For example, the disk is full. Requests that only read must still be answered.
        log.warning("device.not_noted", error=type(exc).__name__)


def note_all_seen(devices: Collection[int]) -> None:
    """Write `last_seen_at` of the devices that wait, where it is older than SEEN_IS_NOTED_EVERY."""
    now = clock.now()
    stale = Device.objects.filter(pk__in=devices, last_seen_at__lt=now - SEEN_IS_NOTED_EVERY)
    stale.update(last_seen_at=now)


class IsDevice(BasePermission):
    def has_permission(self, request: Request, view: Any) -> bool:
        if not isinstance(request.auth, Device):
            raise not_logged_in()
        return True
