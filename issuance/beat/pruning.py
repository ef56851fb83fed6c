"""What is deleted once nobody needs it."""

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


# --- pruning ---


@shared_task(name="issuance.prune")
def prune() -> None:
    """Destroy the keys of attempts that failed or only proved, the secrets of retired credentials whose records are all
    gone, and old exchanges with CAs. Before that, correct what a clock that was ahead has left behind."""
    clockstep.correct(clock.now())
    for what in (prune_keys, prune_retired_credentials, ratelimits.prune, exchanges.prune):
        try:
            what()
        except Exception:  # what cannot be pruned must not keep the rest
            logger.exception("prune.failed", what=f"{what.__module__}.{what.__name__}")


def prune_keys() -> None:
    """An attempt whose CSR was sent keeps its key as long as its order lives: the next attempt may take it over. What
    only proved, at staging, is taken over by nobody."""
    now, State = clock.now(), Issuance.State
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
    """Another attempt may have taken the key over meanwhile, or a version may have it."""
    if not any(
        holder.objects.filter(key=key_id).exists() for holder in (Issuance, CertificateVersion)
    ):
        Envelope.objects.filter(pk=key_id).delete()


def prune_retired_credentials() -> None:
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
