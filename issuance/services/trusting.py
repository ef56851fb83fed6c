"""Let devices trust a private CA, or no longer."""

from django.db import transaction

from accounts import audit
from authorities.models import PrivateCA
from devices import signals
from devices.models import Device
from issuance.models import TrustedCA


@transaction.atomic
def trust(device: Device, private_ca: PrivateCA) -> None:
    """Let the device trust the private CA. Do nothing if it does."""
    _, is_new = TrustedCA.objects.get_or_create(device=device, private_ca=private_ca)
    if is_new:
        audit.note_row(device, "device.ca_assigned", ca=private_ca.pk)
        signals.emit([device.pk], "ca.assigned", _ref(private_ca))


@transaction.atomic
def distrust(device: Device, private_ca: PrivateCA) -> None:
    """Let the device trust the private CA no longer. Do nothing if it does not."""
    if TrustedCA.objects.filter(device=device, private_ca=private_ca).delete()[0]:
        audit.note_row(device, "device.ca_unassigned", ca=private_ca.pk)
        signals.emit([device.pk], "ca.unassigned", _ref(private_ca))


def _ref(private_ca: PrivateCA) -> dict[str, object]:
    return {
        "ca_id": private_ca.pk,
        "ca_name": private_ca.name,
        "serial": private_ca.serial_number,
    }
