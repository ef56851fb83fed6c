"""Authentication of devices by their access token. It reads one row."""

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
from devices import tokens
from devices.models import Device, DeviceSession

log = structlog.get_logger()

SEEN_IS_NOTED_EVERY = timedelta(minutes=5)


class DeviceAuthentication(BaseAuthentication):
    """Authentication by `Authorization: Bearer <JWT>`. `request.auth` is then the Device.

    Raise Unauthorized for a token that is not valid, or whose session has ended. Raise Forbidden
    if the device is absent, another owner's, or revoked.
    """

    def authenticate(self, request: Request) -> tuple[User, Device] | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        claims = tokens.read_access_token(token.strip())
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
            raise errors.Forbidden("This device does not exist, or it was revoked. Enrol it again.")
        if not device.has_session:
            raise errors.Unauthorized("The session of this device has ended. Enrol it again.")
        note_seen(device)
        return device.owner, device

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="certctrl"'


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


class IsDevice(BasePermission):
    def has_permission(self, request: Request, view: Any) -> bool:
        if not isinstance(request.auth, Device):
            raise errors.NotLoggedIn(
                "Send the access token of the device: Authorization: Bearer ..."
            )
        return True
