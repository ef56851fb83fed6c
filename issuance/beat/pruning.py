"""Delete keys, secrets and exchanges that are not needed any more."""

from datetime import timedelta

import structlog
from celery import shared_task
from django.db import transaction
from django.db.models import Q

from authorities import exchanges
from certctrl import clock
from dnsproviders.models import DnsCredential, TxtRecord
from issuance import ratelimits
from issuance.beat import clockstep
from issuance.models import CertificateVersion, Issuance
from keystore.models import Envelope

logger = structlog.get_logger()
KEPT_AFTER_FAILURE = timedelta(days=1)


@shared_task(name="issuance.prune")
def prune() -> None:
    """Delete keys of attempts, secrets of credentials, rate limit rows and exchanges.

    They are the keys of attempts that failed or ran at staging. The secrets are those of retired
    credentials whose records are all gone. First correct times that a wrong clock has written.
    """
    clockstep.correct(clock.now())
    for what in (prune_keys, prune_retired_credentials, ratelimits.prune, exchanges.prune):
        try:
            what()
        except Exception:  # one failure must not stop the others
            logger.exception("prune.failed", what=f"{what.__module__}.{what.__name__}")


def prune_keys() -> None:
    """Destroy the keys of attempts that failed, were canceled, or only ran at staging.

    An attempt whose CSR was sent keeps its key until its order expires. Until then the next
    attempt may take over key and order. An order that became valid at staging is never taken over.
    """
    now = clock.now()
    State = Issuance.State
    is_over = Q(csr_sent_at=None) | Q(order_expires_at=None) | Q(order_expires_at__lt=now)
    failed = Q(
        is_over, state__in=[State.FAILED, State.CANCELED], ended_at__lt=now - KEPT_AFTER_FAILURE
    )
    proved = Q(state=State.ISSUED, proves=True)
    over = Issuance.objects.filter(failed | proved, key__isnull=False)
    for issuance_id, key_id in over.values_list("pk", "key"):
        with transaction.atomic():
            Issuance.objects.filter(pk=issuance_id).update(key=None)
            destroy_unless_held(key_id)


def destroy_unless_held(key_id: int) -> None:
    """Delete the envelope of a key, unless another attempt or a version has the key."""
    if not any(
        holder.objects.filter(key=key_id).exists() for holder in (Issuance, CertificateVersion)
    ):
        Envelope.objects.filter(pk=key_id).delete()


def prune_retired_credentials() -> None:
    """Destroy the secrets of retired credentials without records and without open attempts."""
    retired = DnsCredential.objects.filter(retired_at__isnull=False, secret__isnull=False)
    has_records = Q(pk__in=TxtRecord.objects.in_the_zone().values("credential"))
    is_used = Q(
        pk__in=Issuance.objects.open().filter(credential__isnull=False).values("credential")
    )
    for credential_id, secret_id in retired.exclude(has_records | is_used).values_list(
        "pk", "secret"
    ):
        with transaction.atomic():
            DnsCredential.objects.filter(pk=credential_id).update(secret=None)
            Envelope.objects.filter(pk=secret_id).delete()
