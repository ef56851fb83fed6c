"""Bring new versions to devices when it is their turn, and revoke those that were replaced."""

from datetime import datetime, timedelta

import structlog
from celery import shared_task
from django.db import transaction

from devices.models import Device
from issuance import rollout, services
from issuance.models import Certificate, Deployment

logger = structlog.get_logger()
MOST = 500  # due deployments that one sweep reads
PAUSE = timedelta(hours=1)  # after an error, until the next try


def advance_rollouts(now: datetime) -> None:
    """Act on the deployments that are due. An error at one certificate stops no other."""
    due = Deployment.objects.filter(wake_at__lte=now).order_by("wake_at")
    for certificate_id in dict.fromkeys(due.values_list("certificate", flat=True)[:MOST]):
        try:
            _advance(certificate_id, now)
        except Exception:
            logger.exception("rollout.failed", certificate=certificate_id)
            broken = Deployment.objects.filter(certificate=certificate_id, wake_at__lte=now)
            broken.update(wake_at=now + PAUSE)


@transaction.atomic
def _advance(certificate_id: int, now: datetime) -> None:
    """Advance one certificate. When it or one of its devices is locked, the next sweep does it.

    A worker may hold the lock of a device during a call to an HSM or a service that is silent.
    """
    rows = Certificate.objects.filter(pk=certificate_id).select_related("current", "owner")
    certificate = rows.select_for_update(of=("self",), skip_locked=True).first()
    if not certificate:
        return
    due = certificate.deployments.filter(wake_at__lte=now).values("device")
    devices = Device.objects.filter(pk__in=due).order_by("pk")
    free = devices.select_for_update(no_key=True, skip_locked=True)
    if len(free) == devices.count():
        rollout.advance(certificate, now)


@shared_task(name="issuance.revoke_superseded")
def revoke_superseded() -> None:
    """Ask for the revocation of replaced versions, where the owner wishes it and it is safe."""
    wishes = Certificate.objects.filter(revoke_superseded=True, retired_at=None)
    for certificate in wishes.select_related("current", "owner").order_by("pk").iterator():
        try:
            services.revoke_replaced(certificate)
        except Exception:
            logger.exception("rollout.not_revoked", certificate=certificate.pk)
