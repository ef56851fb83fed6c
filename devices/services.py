"""The actions of owners on their devices: rename, tag, revoke, and make keys for a fleet."""

from collections.abc import Mapping
from typing import Any

from django.db import transaction

from accounts import audit
from accounts.models import User
from accounts.services import create_api_key, revoke_api_key
from certctrl import clock
from certctrl.sentences import printable
from devices import changes, tokens
from devices.models import Device, DeviceTag, EnrolmentKey
from devices.registration import retire_unused

LONGEST_VERSION = 255
ENROLS = {"obtype": "ForDeviceAuthenticate", "obid": "*", "actions": ["authenticate"]}


@transaction.atomic
def change_device(device: Device, given: Mapping[str, Any]) -> Device:
    """Change the given members, `name` and `tags`, and keep the others."""
    row = Device.objects.select_for_update().get(pk=device.pk)
    if "name" in given:
        row.name = given["name"]
        row.save(update_fields=["name"])
    if "tags" in given:
        row.tags.exclude(tag__in=given["tags"]).delete()
        present = set(row.tags.values_list("tag", flat=True))
        new = [DeviceTag(device=row, tag=tag) for tag in given["tags"] if tag not in present]
        DeviceTag.objects.bulk_create(new)
        changes.note(row)
    if given:
        audit.note_row(row, "device.changed", **given)
    return row


@transaction.atomic
def revoke_device(device: Device) -> None:
    """Refuse the device and all its tokens from now on. Do nothing if it is already revoked."""
    now = clock.now()
    active = Device.objects.filter(pk=device.pk, status=Device.Status.ACTIVE)
    if not active.update(status=Device.Status.REVOKED, revoked_at=now):
        return
    tokens.end_sessions(device)
    retire_unused(device.key)
    changes.note(device)
    audit.note_row(device, "device.revoked", public_id=device.public_id)


@transaction.atomic
def create_enrolment_key(
    owner: User, name: str, tag: str, uses: int, expires_in_seconds: int, ip: str | None
) -> tuple[EnrolmentKey, str]:
    """Create an API key that enrols `uses` devices. Return it with its token, which is not stored.

    Raise QuotaExceeded if the owner has too many API keys.
    """
    api_key, token = create_api_key(owner, name, expires_in_seconds, [ENROLS], ip)
    row = EnrolmentKey.objects.create(api_key=api_key, tag=tag, uses=uses, uses_left=uses)
    return row, token


def revoke_enrolment_key(row: EnrolmentKey) -> None:
    revoke_api_key(row.api_key)


def note_error(device: Device, what: str) -> None:
    """Store what fails on the machine. An empty text says that nothing does."""
    Device.objects.filter(pk=device.pk).update(agent_error=printable(what))


def note_version(device: Device, version: str) -> None:
    """Store the version that the agent of the device reports."""
    Device.objects.filter(pk=device.pk).update(app_version=version[:LONGEST_VERSION])
