"""Assign certificates to devices and to tags."""

from collections.abc import Iterable

from django.db import transaction

from devices.models import Device
from issuance.models import Certificate, CertificateTag, Deployment
from issuance.services import locks
from issuance.services.attempts import audit_certificate


@transaction.atomic
def assign(certificate: Certificate, device: Device) -> None:
    """Assign the certificate to the device. Do nothing if it was assigned before."""
    locks.lock(certificate)
    _, is_new = Deployment.objects.update_or_create(
        certificate=certificate, device=device, defaults={"by_tag": False}
    )
    if is_new:
        audit_certificate(certificate, "assigned", device=device.pk)


@transaction.atomic
def unassign(certificate: Certificate, device: Device) -> None:
    """Take the certificate from the device. A tag that they share keeps it there."""
    locks.lock(certificate)
    certificate.deployments.filter(device=device).update(by_tag=True)
    follow_tags(certificate)


@transaction.atomic
def assign_to_tag(certificate: Certificate, tag: str) -> None:
    """Assign the certificate to each device with this tag, also to those that get it later."""
    locks.lock(certificate)
    _, is_new = CertificateTag.objects.get_or_create(certificate=certificate, tag=tag)
    if is_new:
        audit_certificate(certificate, "tag_assigned", tag=tag)
    follow_tags(certificate)


@transaction.atomic
def unassign_from_tag(certificate: Certificate, tag: str) -> None:
    """Take the certificate from the devices that have it only by this tag."""
    locks.lock(certificate)
    if certificate.tags.filter(tag=tag).delete()[0]:
        audit_certificate(certificate, "tag_unassigned", tag=tag)
    follow_tags(certificate)


def follow_tags(certificate: Certificate) -> None:
    """Make the assignments by tag equal to the tags. The caller has locked the certificate."""
    tags = certificate.tags.values("tag")
    tagged = set(
        Device.objects.filter(owner=certificate.owner_id, tags__tag__in=tags).values_list(
            "pk", flat=True
        )
    )
    present = dict(certificate.deployments.values_list("device", "by_tag"))
    _add(certificate, tagged.difference(present))
    _remove(certificate, {pk for pk, by_tag in present.items() if by_tag}.difference(tagged))


def _add(certificate: Certificate, devices: Iterable[int]) -> None:
    for pk in sorted(devices):
        Deployment.objects.create(certificate=certificate, device_id=pk, by_tag=True)
        audit_certificate(certificate, "assigned", device=pk)


def _remove(certificate: Certificate, devices: Iterable[int]) -> None:
    for pk in sorted(devices):
        certificate.deployments.filter(device=pk).delete()
        audit_certificate(certificate, "unassigned", device=pk)
