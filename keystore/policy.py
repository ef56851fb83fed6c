"""A policy is a list of who can open a certificate's key, nothing more."""

from collections.abc import Iterable

from certctrl.errors import Conflict
from keystore.models import Envelope, RecipientKey
from keystore.recipients import DeviceKey, MasterKey, Recipient

Policy = Envelope.Policy


def recipients_for(policy: str, public_keys: Iterable[RecipientKey]) -> list[Recipient]:
    """Who can open an envelope of this policy; `public_keys` are those of the assigned devices, retired ones left out.

    MASTER_ONLY: the master key. HYBRID: the master key and each device. DEVICE_REQUIRED: each device, at least one,
    else Conflict: nobody could ever open it.
    """
    devices: list[Recipient] = [DeviceKey(key) for key in _usable(public_keys)]
    match Policy(policy):
        case Policy.MASTER_ONLY:
            return [MasterKey.current()]
        case Policy.HYBRID:
            return [MasterKey.current(), *devices]
        case Policy.DEVICE_REQUIRED if devices:
            return devices
    raise Conflict(
        "With DEVICE_REQUIRED only devices can open the key, and none is assigned: assign a device first."
    )


def _usable(public_keys: Iterable[RecipientKey]) -> list[RecipientKey]:
    return list({key.pk: key for key in public_keys if key.retired_at is None}.values())
