"""Enrolment of devices: with a registration code, with an API key, or again with a refresh token.

The device of an owner and a public id is one row, because the devices of an owner enrol one at a
time. A device that enrols again keeps its id, and its earlier tokens end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db import transaction

from accounts import quotas
from accounts.audit import record
from accounts.models import ApiKey, User
from certctrl import clock, errors
from certctrl.sentences import sentence as _
from devices import changes, codes, tokens
from devices.models import Device, DeviceTag, EnrolmentKey
from keystore import recipients
from keystore.models import RecipientKey

METADATA = ("name", "platform", "model", "app_version")
Status = Device.Status


@dataclass(frozen=True)
class Enrolled:
    device: Device
    session: dict[str, Any]
    is_new: bool
    new_key: bool


@transaction.atomic
def with_code(
    spec: Mapping[str, Any], user_id: int, code: str, actor: str, ip: str | None
) -> Enrolled:
    """Enrol the device that a person approved. Raise Unauthorized if the code is not valid.

    A used code can be used again by the same device with the same key, unless it was revoked.
    """
    grant = codes.take(code, user_id, spec["device_public_id"])
    owner = quotas.lock(user_id)
    device = device_of(owner, spec)
    key = recipients.recipient_key(owner, spec["dev_pk"])
    is_same = device is not None and device.key_id == key.pk and device.status == Status.ACTIVE
    if grant.used_by_id and not is_same:
        raise errors.Unauthorized(
            _(
                "The registration code was used with another key, or the device was revoked. "
                "Start the login of the device again."
            )
        )
    enrolled = enrol(owner, device, key, spec)
    codes.spend(grant, enrolled.device)
    note(enrolled, actor, ip, "registration code")
    return enrolled


@transaction.atomic
def with_key(spec: Mapping[str, Any], api_key: ApiKey, actor: str, ip: str | None) -> Enrolled:
    """Enrol a device with an API key.

    A device that was revoked needs a person. An enrolment key changes no key of a device, and each
    new device takes one of its uses.
    """
    owner = quotas.lock(api_key.owner_id)
    device = device_of(owner, spec)
    key = recipients.recipient_key(owner, spec["dev_pk"])
    enrolment = EnrolmentKey.objects.filter(api_key=api_key).first()
    if device and device.status == Status.REVOKED:
        raise errors.Forbidden(
            _(
                "The device %(public_id)s was revoked. Enrol it with a registration code, "
                "which a person approves.",
                public_id=device.public_id,
            )
        )
    if enrolment:
        refuse_enrolment(enrolment, device, key)
    enrolled = enrol(owner, device, key, spec)
    if enrolment and enrolled.is_new:
        take_use(enrolment, enrolled.device)
    note(enrolled, actor, ip, "API key")
    return enrolled


def refuse_enrolment(enrolment: EnrolmentKey, device: Device | None, key: RecipientKey) -> None:
    if device and (device.enrolled_with_id != enrolment.pk or device.key_id != key.pk):
        raise errors.Forbidden(
            _(
                "The device %(public_id)s is already enrolled. An enrolment key only enrols "
                "new devices. Use a registration code.",
                public_id=device.public_id,
            )
        )
    if device is None and not enrolment.uses_left:
        raise errors.Forbidden(
            _(
                "The enrolment key has enrolled its %(uses)s devices. Make a new one.",
                uses=enrolment.uses,
            )
        )


def take_use(enrolment: EnrolmentKey, device: Device) -> None:
    """Count the new device, and give it the tag. The caller has locked the owner."""
    enrolment.uses_left -= 1
    enrolment.save(update_fields=["uses_left"])
    device.enrolled_with = enrolment
    device.save(update_fields=["enrolled_with"])
    if enrolment.tag:
        DeviceTag.objects.create(device=device, tag=enrolment.tag)


def with_refresh_token(
    spec: Mapping[str, Any], user_id: int, token: str, ip: str | None
) -> Enrolled:
    """Update the device of this refresh token, and spend the token.

    The key of the device cannot change in this way. Raise Unauthorized if the token is not valid,
    or is another device's. Raise RefreshTokenRotated for a spent token.
    """
    session, _other = tokens.find(token)
    device = session.device
    key = recipients.fingerprint(spec["dev_pk"])
    if (device.owner_id, device.public_id) != (user_id, spec["device_public_id"]):
        raise tokens.unknown()
    if bytes(device.key.fingerprint) != key:
        raise errors.Unauthorized(
            _("A refresh token does not replace the key of a device. Send a registration code.")
        )
    refreshed = tokens.refresh(token, ip)
    describe(device, spec)
    device.save(update_fields=[*METADATA, "last_seen_at"])
    return Enrolled(device, refreshed, is_new=False, new_key=False)


def device_of(owner: User, spec: Mapping[str, Any]) -> Device | None:
    """Lock the device and return it. A revocation at the same moment waits."""
    locked = owner.devices.select_for_update(of=("self",)).select_related("key")
    return locked.filter(public_id=spec["device_public_id"]).first()


def enrol(
    owner: User, device: Device | None, key: RecipientKey, spec: Mapping[str, Any]
) -> Enrolled:
    """Create the device, or take it back into use. Start its session."""
    is_new = device is None
    if device is None or device.status == Status.REVOKED:
        quotas.refuse_more(owner, "devices")
    device = device or Device(owner=owner, public_id=spec["device_public_id"], key=key)
    before, device.key = device.key, key
    device.status, device.revoked_at = Status.ACTIVE, None
    device.enrolled_at = clock.now()
    describe(device, spec)
    device.save()
    if before != key:
        retire_unused(before)
    changes.note(device)
    new_key = is_new or before != key
    return Enrolled(device, tokens.start_session(device), is_new, new_key)


def note(enrolled: Enrolled, actor: str, ip: str | None, by: str) -> None:
    """Write the enrolment into the audit log."""
    device = enrolled.device
    record(
        device.owner,
        actor,
        "device.enrolled",
        f"device:{device.pk}",
        ip,
        by=by,
        public_id=device.public_id,
        key_fingerprint=bytes(device.key.fingerprint).hex(),
        is_new=enrolled.is_new,
        new_key=enrolled.new_key,
    )


def describe(device: Device, spec: Mapping[str, Any]) -> None:
    """Set the metadata that the device sent. Empty values keep the earlier ones."""
    for name in METADATA:
        if spec.get(name):
            setattr(device, name, spec[name])
    device.last_seen_at = clock.now()


def retire_unused(key: RecipientKey) -> None:
    """Retire a public key that no active device has. Its wraps are removed."""
    if not key.devices.filter(status=Status.ACTIVE).exists():
        recipients.retire(key)
