"""Let certificates follow their devices, where that was not possible when a device changed."""

import structlog
from celery import shared_task
from django.db.models import Exists, OuterRef, Q, QuerySet

from authorities.models import PrivateCA
from devices.models import Device, DeviceTag
from issuance import services
from issuance.models import Certificate, CertificateTag, Deployment, Issuance, TrustedCA
from keystore.models import Envelope, KeyWrap

logger = structlog.get_logger()
BATCH = 500


@shared_task(name="issuance.follow_devices")
def follow_devices() -> None:
    """Make the wraps that are pending, and the assignments by tag that are missing.

    A worker that died after the commit of a device left them. So did a master key that was away.
    A run that is late or runs twice does no harm.
    """
    for certificate in Certificate.objects.filter(retired_at=None, pk__in=left_behind()):
        try:
            services.follow(certificate)
        except Exception:  # one certificate must not stop the others
            logger.exception("follow.failed", certificate=certificate.pk)
    gone = TrustedCA.objects.exclude(private_ca__status=PrivateCA.Status.ACTIVE)
    for row in gone.select_related("device__owner", "private_ca")[:BATCH]:
        services.distrust(row.device, row.private_ca)


def left_behind() -> set[int]:
    """Return the ids of the certificates that do not fit their devices, at most BATCH of a kind."""
    found = (without_wrap(), without_device(), without_tag())
    return {pk for rows in found for pk in rows.values_list("certificate", flat=True)[:BATCH]}


def without_wrap() -> QuerySet[Deployment]:
    """Return the deployments whose wrap is pending, and can be made now.

    When only a new key helps, this leaves out the certificates that are being issued, and those
    that failed. Their retry is planned.
    """
    wraps = KeyWrap.objects.filter(envelope=OuterRef("certificate__current__key"))
    opens = wraps.filter(master_key_id__isnull=False)
    attempts = Issuance.objects.open().filter(certificate=OuterRef("certificate"))
    is_tried = Exists(attempts) | Q(certificate__failures__gt=0)
    return (
        Deployment.objects.filter(
            ~Exists(wraps.filter(recipient_key=OuterRef("device__key"))),
            device__status=Device.Status.ACTIVE,
            certificate__retired_at=None,
            certificate__current__isnull=False,
        )
        .exclude(certificate__key_policy=Envelope.Policy.MASTER_ONLY)
        .filter(Exists(opens) | ~is_tried)
    )


def without_device() -> QuerySet[CertificateTag]:
    """Return the tags of certificates that a device has, and that assigned nothing to it."""
    has_it = Deployment.objects.filter(
        certificate=OuterRef(OuterRef("certificate")), device=OuterRef("device")
    )
    devices = DeviceTag.objects.filter(
        ~Exists(has_it), tag=OuterRef("tag"), device__owner=OuterRef("certificate__owner")
    )
    return CertificateTag.objects.filter(Exists(devices))


def without_tag() -> QuerySet[Deployment]:
    """Return the deployments by tag whose tag is gone."""
    tags = CertificateTag.objects.filter(
        certificate=OuterRef(OuterRef("certificate")), tag=OuterRef("tag")
    )
    shared = DeviceTag.objects.filter(Exists(tags), device=OuterRef("device"))
    return Deployment.objects.filter(~Exists(shared), by_tag=True)
