"""Enrolment of devices: with a registration code, with an API key, or again with a refresh token.

The device of an owner and a public id is one row. A device that enrols again keeps its id, and its
earlier tokens end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import transaction

from accounts import quotas
from accounts.audit import record
from accounts.models import ApiKey, User
from certctrl import clock, errors
from devices import codes, tokens
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


@dataclass(frozen=True)
class Proof:
    """The evidence that a device may enrol for an owner: its audit actor, and its checks."""

    actor: str
    way: str
    enrolment: EnrolmentKey | None = None
    refuse: Callable[[Device | None, RecipientKey], None] = lambda device, key: None


@transaction.atomic
def with_code(spec: Mapping[str, Any], user_id: int, code: str, ip: str | None) -> Enrolled:
    """Enrol the device that a person approved. Raise Unauthorized if the code is not valid.

    A used code can be used again by the same device with the same key.
    """
    public_id = spec["device_public_id"]
    grant = codes.take(code, user_id, public_id)

    def refuse(device: Device | None, key: RecipientKey) -> None:
        if grant.used_by_id and (device is None or device.key_id != key.pk):
            raise errors.Unauthorized(
                "The registration code was used with another key. Start the login of the device "
                "again."
            )

    proof = Proof(f"device {public_id}", "registration code", refuse=refuse)
    owner = User.objects.get(pk=user_id)
    enrolled = enrol(owner, spec, proof, ip)
    codes.spend(grant, enrolled.device)
    return enrolled


@transaction.atomic
def with_key(spec: Mapping[str, Any], api_key: ApiKey, actor: str, ip: str | None) -> Enrolled:
    """Enrol a device with an API key.

    A device that was revoked needs a person. An enrolment key changes no key of a device, and each
    new device takes one of its uses.
    """
    enrolment = EnrolmentKey.objects.select_for_update().filter(api_key=api_key).first()

    def refuse(device: Device | None, key: RecipientKey) -> None:
        if device and device.status == Status.REVOKED:
            raise errors.Forbidden(
                f"The device {device.public_id} was revoked. Enrol it with a registration code, "
                "which a person approves."
            )
        if enrolment:
            refuse_enrolment(enrolment, device, key)

    return enrol(api_key.owner, spec, Proof(actor, "API key", enrolment, refuse), ip)


def refuse_enrolment(enrolment: EnrolmentKey, device: Device | None, key: RecipientKey) -> None:
    if device and (device.enrolled_with_id != enrolment.pk or device.key_id != key.pk):
        raise errors.Forbidden(
            f"The device {device.public_id} is already enrolled. An enrolment key only enrols new "
            "devices. Use a registration code."
        )
    if device is None and not enrolment.uses_left:
        raise errors.Forbidden(
            f"The enrolment key has enrolled its {enrolment.uses} devices. Make a new one."
        )


def with_refresh_token(spec: Mapping[str, Any], user_id: int, token: str, ip: str | None) -> Any:
    """Update the device of this refresh token, and spend the token.

    The key of the device cannot change in this way. Raise Unauthorized if the token is not valid,
    or is another device's. Raise RefreshTokenRotated for a spent token.
    """
    session, _ = tokens.find(token)
    device = session.device
    key = recipients.fingerprint(spec["dev_pk"])
    if (device.owner_id, device.public_id) != (user_id, spec["device_public_id"]):
        raise tokens.unknown()
    if bytes(device.key.fingerprint) != key:
        raise errors.Unauthorized(
            "A refresh token does not replace the key of a device. Send a registration code."
        )
    refreshed = tokens.refresh(token, ip)
    update(device, spec)
    return Enrolled(device, refreshed, is_new=False)


def enrol(owner: User, spec: Mapping[str, Any], proof: Proof, ip: str | None) -> Enrolled:
    """Create the device, or take it back into use. Start its session."""
    # One enrolment of an owner at a time, so that a public id never gets two rows.
    User.objects.select_for_update(no_key=True).get(pk=owner.pk)
    device = Device.objects.filter(owner=owner, public_id=spec["device_public_id"]).first()
    key = recipients.recipient_key(owner, spec["dev_pk"])
    proof.refuse(device, key)
    is_new = device is None
    before = None if device is None else device.key
    if device is None or device.status == Status.REVOKED:
        quotas.refuse_more(owner, "devices")
    device = device or Device(owner=owner, public_id=spec["device_public_id"])
    device.key = key
    device.status, device.revoked_at = Status.ACTIVE, None
    device.enrolled_at = clock.now()
    if is_new:
        device.enrolled_with = proof.enrolment
    update(device, spec)
    if before and before != key:
        retire_unused(before)
    if is_new and proof.enrolment:
        take_use(proof.enrolment, device)
    session = tokens.start_session(device)
    record(
        owner,
        proof.actor,
        "device.enrolled",
        f"device:{device.pk}",
        ip,
        by=proof.way,
        public_id=device.public_id,
        key_fingerprint=bytes(key.fingerprint).hex(),
        is_new=is_new,
        new_key=before != key,
    )
    return Enrolled(device, session, is_new)


def update(device: Device, spec: Mapping[str, Any]) -> None:
    """Save the device with the metadata that it sent."""
    for name in METADATA:
        if spec.get(name):
            setattr(device, name, spec[name])
    device.last_seen_at = clock.now()
    device.save()


def take_use(enrolment: EnrolmentKey, device: Device) -> None:
    """Count the new device, and give it the tag. The caller has locked the enrolment key."""
    enrolment.uses_left -= 1
    enrolment.save(update_fields=["uses_left"])
    if enrolment.tag:
        DeviceTag.objects.create(device=device, tag=enrolment.tag)


def retire_unused(key: RecipientKey) -> None:
    """Retire a public key that no active device has."""
    if not key.devices.filter(status=Status.ACTIVE).exists():
        RecipientKey.objects.filter(pk=key.pk).update(retired_at=clock.now())
