"""Assign certificates to devices and to tags. The wraps follow, and the devices are notified."""

from collections.abc import Iterable

import structlog
from django.db import transaction
from django.db.models import Q

from certctrl.errors import ApiError, Conflict, NotFound
from certctrl.sentences import sentence as _
from devices import signals
from devices.models import Device, DeviceTag
from issuance import rollout, wraps
from issuance.models import Certificate, CertificateTag, Deployment, Issuance
from issuance.services import locks
from issuance.services.attempts import advance, audit_certificate, request_issuance
from keystore.models import Envelope

Policy = Envelope.Policy
logger = structlog.get_logger()


def assign(certificate: Certificate, device: Device) -> Issuance | None:
    """Assign the certificate to the device, and wrap the key for it.

    When the server cannot open the key, the certificate is issued again. Return this attempt. Do
    nothing if it was assigned before. Raise Conflict for a device that was revoked. Raise
    CannotOpen while the master key is not usable, and the errors of `request_issuance`.
    """
    with transaction.atomic():
        issuance = add(certificate, device)
    return advance(issuance)


def add(
    certificate: Certificate, device: Device, validity_seconds: int | None = None
) -> Issuance | None:
    """Do the same as `assign` inside a transaction. The caller calls `advance()` after it.

    `validity_seconds` is for an attempt at a private CA.
    """
    locks.lock_with_owner(certificate)
    if not Device.objects.filter(pk=device.pk, status=Device.Status.ACTIVE).exists():
        raise Conflict(
            _("The device %(device)s was revoked. Enrol it again, then assign it.", device=device)
        )
    _other, is_new = Deployment.objects.update_or_create(
        certificate=certificate, device=device, defaults={"by_tag": False}
    )
    if is_new:
        audit_certificate(certificate, "assigned", device=device.pk)
    return serve(certificate, {device.pk} if is_new else (), validity_seconds)


def unassign(certificate: Certificate, device: Device) -> None:
    """Take the certificate from the device. A tag that they share keeps it there."""
    with transaction.atomic():
        locks.lock(certificate)
        certificate.deployments.filter(device=device).update(by_tag=True)
        follow_tags(certificate)
        wraps.fit_or_wait(certificate)


def assign_to_tag(certificate: Certificate, tag: str) -> Issuance | None:
    """Assign the certificate to each device with this tag, also to those that get it later.

    Return the attempt that makes a new key for them, if there is one. Raise the errors of
    `assign`.
    """
    with transaction.atomic():
        locks.lock_with_owner(certificate)
        _, is_new = CertificateTag.objects.get_or_create(certificate=certificate, tag=tag)
        if is_new:
            audit_certificate(certificate, "tag_assigned", tag=tag)
        issuance = serve(certificate, follow_tags(certificate))
    return advance(issuance)


def unassign_from_tag(certificate: Certificate, tag: str) -> None:
    """Take the certificate from the devices that have it only by this tag."""
    with transaction.atomic():
        locks.lock(certificate)
        if certificate.tags.filter(tag=tag).delete()[0]:
            audit_certificate(certificate, "tag_unassigned", tag=tag)
        follow_tags(certificate)
        wraps.fit_or_wait(certificate)


def unassign_all(certificate: Certificate) -> None:
    """Take a deleted certificate from all devices. The caller has locked it."""
    certificate.tags.all().delete()
    certificate.deployments.update(by_tag=True)
    follow_tags(certificate)
    wraps.fit_or_wait(certificate)


def follow_tags(certificate: Certificate) -> set[int]:
    """Make the assignments by tag equal to the tags. Return the ids of the new devices.

    Devices that lose the certificate are notified. The caller has locked the certificate.
    """
    tags = certificate.tags.values("tag")
    tagged = Device.objects.filter(owner=certificate.owner_id, tags__tag__in=tags)
    wanted = set(tagged.values_list("pk", flat=True))
    present = dict(certificate.deployments.values_list("device", "by_tag"))
    # Locked in one order and at once. Signals and wraps lock some of them again.
    list(
        Device.objects.filter(pk__in=wanted.union(present))
        .order_by("pk")
        .select_for_update(no_key=True)
    )
    new = wanted.difference(present)
    over = {pk for pk, by_tag in present.items() if by_tag} - wanted
    Deployment.objects.bulk_create(
        [Deployment(certificate=certificate, device_id=pk, by_tag=True) for pk in sorted(new)]
    )
    certificate.deployments.filter(device__in=over).delete()
    for done, devices in (("assigned", new), ("unassigned", over)):
        for pk in sorted(devices):
            audit_certificate(certificate, done, device=pk)
    signals.emit(over, "cert.unassigned", {"cert_id": certificate.pk})
    return new


def serve(
    certificate: Certificate, new: Iterable[int], validity_seconds: int | None = None
) -> Issuance | None:
    """Wrap the key for all devices, and notify the new ones and those whose wrap was pending.

    Return the attempt that makes a new key, when only this serves all. Its end notifies them.
    """
    served = wraps.pending(certificate).union(new)
    if wraps.fit(certificate) or is_first(certificate):
        return request_issuance(certificate, validity_seconds=validity_seconds)
    rollout.reach(certificate, served)
    rollout.wake(certificate)  # a device that was revoked meanwhile may be behind
    return None


def is_first(certificate: Certificate) -> bool:
    """Return whether the certificate has waited for its first device."""
    waits = not certificate.current and certificate.key_policy == Policy.DEVICE_REQUIRED
    return waits and not certificate.lacks_device


# --- devices that changed ---


def follow_device(device_id: int, **kwargs: object) -> None:
    """Let the assignments and the wraps follow a device that changed."""
    tags = DeviceTag.objects.filter(device=device_id).values("tag")
    tagged = Q(owner__devices=device_id, tags__tag__in=tags)
    touched = Certificate.objects.filter(tagged | Q(deployments__device=device_id))
    for certificate in touched.filter(retired_at=None).distinct().order_by("pk"):
        follow(certificate)


def follow(certificate: Certificate) -> None:
    """Let the certificate follow its tags and its devices.

    A wrap that cannot be made now stays pending. The task `follow_devices` tries it again.
    """
    try:
        with transaction.atomic():
            locks.lock(certificate)
            served = follow_tags(certificate) | wraps.pending(certificate)
            takes_new_key = wraps.fit_or_wait(certificate) or is_first(certificate)
            if not takes_new_key:
                rollout.reach(certificate, served - wraps.pending(certificate))
                rollout.wake(certificate)  # a device that was revoked meanwhile may be behind
        if takes_new_key:
            advance(request_issuance(certificate))
    except NotFound:
        return  # deleted meanwhile
    except ApiError as exc:
        logger.warning("wraps.pending", certificate=certificate.pk, why=exc.what)
