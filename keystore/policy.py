"""A key policy is the list of recipients that can open a certificate's key."""

from collections.abc import Iterable

from certctrl.errors import Conflict
from certctrl.sentences import sentence as _
from keystore.models import Envelope, RecipientKey
from keystore.recipients import DeviceKey, MasterKey, Recipient

Policy = Envelope.Policy


def recipients_for(policy: str, public_keys: Iterable[RecipientKey]) -> list[Recipient]:
    """Return the recipients that can open an envelope of this policy.

    - MASTER_ONLY: the master key
    - HYBRID: the master key and each device
    - DEVICE_REQUIRED: each device

    `public_keys` are the keys of the assigned devices. Retired keys are ignored. Raise Conflict
    for DEVICE_REQUIRED without a device, because nobody could open the envelope.
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
        _(
            "With DEVICE_REQUIRED only devices can open the key, but none is assigned. "
            "Assign a device first."
        )
    )


def _usable(public_keys: Iterable[RecipientKey]) -> list[RecipientKey]:
    return list({key.pk: key for key in public_keys if key.retired_at is None}.values())
