"""Tell the apps above that a device changed: its key, its tags, or whether it is active.

An app connects to `changed`. It is called after the commit, with the id of the device. Until then
the device is not served, so a receiver that fails delays a device and changes nothing. It is
called again by a task of its own.
"""

from functools import partial

from django.db import transaction
from django.dispatch import Signal

from devices.models import Device

changed = Signal()


def note(device: Device) -> None:
    """Call the receivers after the commit of this transaction."""
    transaction.on_commit(partial(changed.send_robust, sender=Device, device_id=device.pk))
