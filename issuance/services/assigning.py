"""Assign certificates to devices and to tags, and let the wraps and the devices follow."""

from collections.abc import Iterable

import structlog
from django.db import transaction

from certctrl.errors import ApiError, Conflict
from devices import signals
from devices.models import Device
from issuance import deployments, wraps
from issuance.models import Certificate, CertificateTag, Deployment, Issuance
from issuance.services import locks
from issuance.services.attempts import advance, audit_certificate, request_issuance
from keystore.envelope import CannotOpen

logger = structlog.get_logger()
Status = Device.Status


def assign(certificate: Certificate, device: Device) -> bool:
    """Assign the certificate to the device, and wrap the key for it.

    Return False when the certificate is issued again instead, because the server cannot open its
    key. Do nothing if it was assigned before. Raise Conflict for a device that was revoked, and
    the errors of `request_issuance`. Raise CannotOpen while no master key is usable.
    """
    with transaction.atomic():
        locks.lock(certificate)
        device.refresh_from_db(fields=["status"])
        if device.status == Status.REVOKED:
            raise Conflict(f"The device {device} was revoked. Enrol it again, then assign it.")
        present = certificate.deployments.filter(device=device)
        if not present.exists():
            add(certificate, [device.pk], by_tag=False)
        present.update(by_tag=False)
        issuance = serve(certificate, {device.pk})
    advance(issuance)
    return issuance is None


def unassign(certificate: Certificate, device: Device) -> None:
    """Take the certificate from the device. A tag that they share keeps it there."""
    with transaction.atomic():
        locks.lock(certificate)
        certificate.deployments.filter(device=device).update(by_tag=True)
        follow_tags(certificate)


def assign_to_tag(certificate: Certificate, tag: str) -> bool:
    """Assign the certificate to each device with this tag, also to those that get it later.

    Return False when the certificate is issued again for them. Raise the errors of `assign`.
    """
    with transaction.atomic():
        locks.lock(certificate)
        _, is_new = CertificateTag.objects.get_or_create(certificate=certificate, tag=tag)
        if is_new:
            audit_certificate(certificate, "tag_assigned", tag=tag)
        issuance = serve(certificate, follow_tags(certificate))
    advance(issuance)
    return issuance is None
