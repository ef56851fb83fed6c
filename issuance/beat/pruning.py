"""Delete keys, secrets and rows that are not needed any more.

See docs/decisions/0025-history-has-an-end.md. Nothing that is open or in use is deleted.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta

import structlog
from celery import shared_task
from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q

import notices.pruning
from accounts import archive, sessions
from authorities import exchanges
from certctrl import clock, retention
from devices import agentchallenges
from dnsproviders import records
from dnsproviders.models import DnsCredential, TxtRecord
from issuance import ratelimits, services
from issuance.beat import clockstep
from issuance.models import (
    KEY_COMPROMISE,
    Certificate,
    CertificateVersion,
    Issuance,
    IssuanceEvent,
    RenewalInfo,
    RequestKey,
)
from keystore.models import Envelope
from signin import mailedcodes

logger = structlog.get_logger()
KEPT_AFTER_FAILURE = timedelta(days=1)
State = Issuance.State


@shared_task(name="issuance.prune")
def prune() -> None:
    """Correct times that a wrong clock has written, then delete what is old.

    A run deletes a limited number of rows of each kind. The next run goes on.
    """
    clockstep.correct(clock.now())
    parts: tuple[Callable[[], None], ...] = (
        prune_keys,
        prune_version_keys,
        prune_versions,
        prune_attempts,
        prune_events,
        prune_retired_certificates,
        prune_renewal_infos,
        prune_request_keys,
        prune_retired_credentials,
        ratelimits.prune,
        records.prune,
        agentchallenges.prune,
        notices.pruning.prune,
        mailedcodes.prune,
        exchanges.prune,
        sessions.prune,
        archive.prune,
        services.add_up,
    )
    for part in parts:
        try:
            part()
        except Exception:  # one failure must not stop the others
            logger.exception("prune.failed", what=f"{part.__module__}.{part.__name__}")


# --- keys ---


def prune_keys() -> None:
    """Destroy the keys of attempts that failed, were canceled, or only ran at staging.

    An attempt whose CSR was sent keeps its key until its order expires. Until then the next
    attempt may take over key and order. An order that became valid at staging is never taken over.
    """
    now = clock.now()
    with_key = Issuance.objects.filter(key__isnull=False)
    is_over = Q(csr_sent_at=None) | Q(order_expires_at=None) | Q(order_expires_at__lt=now)
    failed = with_key.filter(
        is_over, state__in=[State.FAILED, State.CANCELED], ended_at__lt=now - KEPT_AFTER_FAILURE
    )
    proved = with_key.filter(state=State.ISSUED, proves=True)
    for attempts in (failed, proved):
        retention.in_batches(attempts, destroy_keys_of_attempts)


def prune_version_keys() -> None:
    """Destroy the keys of expired versions that were replaced, or whose certificate was deleted.

    KEEP_OLD_KEYS says how long after the expiry.
    """
    before = retention.before(settings.KEEP_OLD_KEYS)
    if before:
        expired = CertificateVersion.objects.filter(key__isnull=False, not_after__lt=before)
        in_use = Certificate.objects.filter(current=OuterRef("pk"), retired_at=None)
        retention.in_batches(expired.filter(~Exists(in_use)), destroy_keys_of_versions)


def destroy_keys_of_versions(ids: Sequence[int]) -> None:
    versions = CertificateVersion.objects.filter(pk__in=ids)
    attempt_ids = list(versions.values_list("issuance", flat=True))
    keys = list(versions.values_list("key", flat=True))
    versions.update(key=None)
    destroy_keys_of_attempts(attempt_ids)
    destroy_unless_held(keys)


def destroy_keys_of_attempts(ids: Sequence[int]) -> None:
    attempts = Issuance.objects.filter(pk__in=ids)
    keys = list(attempts.values_list("key", flat=True))
    attempts.update(key=None)
    destroy_unless_held(keys)


def destroy_unless_held(keys: Iterable[int | None]) -> None:
    """Delete the envelopes of keys, but not of a key that another attempt or a version has."""
    ids = set(filter(None, keys))
    held = {
        pk
        for holders in (Issuance.objects, CertificateVersion.objects)
        for pk in holders.filter(key__in=ids).values_list("key", flat=True)
    }
    Envelope.objects.filter(pk__in=ids - held).delete()


# --- attempts, versions, certificates ---


def prune_versions() -> None:
    """Delete the expired versions that were replaced, each with its attempt.

    A version stays while its key exists or its revocation is open. A version that was revoked for
    keyCompromise stays as long as the certificate, because its key must not be used again.
    """
    before = retention.before(settings.KEEP_ATTEMPTS)
    if before:
        expired = CertificateVersion.objects.filter(
            key__isnull=True, not_after__lt=clock.now(), created_at__lt=before, wake_at=None
        )
        is_current = Exists(Certificate.objects.filter(current=OuterRef("pk")))
        replaced = expired.filter(~is_current).exclude(revoke_reason=KEY_COMPROMISE)
        retention.in_batches(replaced, delete_versions)


def delete_versions(ids: Sequence[int]) -> None:
    versions = CertificateVersion.objects.filter(pk__in=ids)
    attempt_ids = list(versions.values_list("issuance", flat=True))
    versions.delete()
    Issuance.objects.filter(pk__in=attempt_ids).delete()


def prune_attempts() -> None:
    """Delete the attempts that issued nothing, and those at staging.

    The newest attempt of a certificate stays, because it says how the certificate is.
    """
    before = retention.before(settings.KEEP_ATTEMPTS)
    if before:
        newer = Issuance.objects.filter(certificate=OuterRef("certificate"), pk__gt=OuterRef("pk"))
        ended = Issuance.objects.filter(Exists(newer), ended_at__lt=before)
        fruitless = ended.filter(state__in=[State.FAILED, State.CANCELED])
        for attempts in (fruitless, ended.filter(proves=True)):
            retention.in_batches(attempts, delete_attempts)


def delete_attempts(ids: Sequence[int]) -> None:
    destroy_keys_of_attempts(ids)
    Issuance.objects.filter(pk__in=ids).delete()


def prune_events() -> None:
    """Delete the events of old attempts that stay because their version stays."""
    before = retention.before(settings.KEEP_ATTEMPTS)
    if before:
        old = IssuanceEvent.objects.filter(at__lt=before, issuance__ended_at__lt=before)
        retention.delete(old)


def prune_retired_certificates() -> None:
    """Delete the certificates that people deleted, with their versions, attempts and keys.

    A certificate stays while an attempt or a revocation is open, or a record is in a zone.
    """
    before = retention.before(settings.KEEP_ATTEMPTS)
    if before:
        open_ones = Issuance.objects.open().filter(certificate=OuterRef("pk"))
        revocations = CertificateVersion.objects.filter(
            certificate=OuterRef("pk"), wake_at__isnull=False
        )
        left = TxtRecord.objects.in_the_zone().filter(
            authorizations__issuance__certificate=OuterRef("pk")
        )
        retired = Certificate.objects.filter(
            ~Exists(open_ones), ~Exists(revocations), ~Exists(left), retired_at__lt=before
        )
        retention.in_batches(retired, delete_certificates)


def delete_certificates(ids: Sequence[int]) -> None:
    versions = CertificateVersion.objects.filter(certificate__in=ids)
    attempts = Issuance.objects.filter(certificate__in=ids)
    keys = [*versions.values_list("key", flat=True), *attempts.values_list("key", flat=True)]
    versions.delete()
    attempts.delete()
    Certificate.objects.filter(pk__in=ids).delete()
    destroy_unless_held(keys)


# --- what attempts leave behind ---


def prune_renewal_infos() -> None:
    """Delete the renewal windows of versions that were replaced."""
    before = retention.before(settings.KEEP_RENEWAL_INFOS)
    if before:
        over = RenewalInfo.objects.filter(wake_at=None, created_at__lt=before)
        replaced = over.filter(version__certificate__current__created_at__lt=before)
        retention.delete(replaced.exclude(version__certificate__current=F("version")))


def prune_request_keys() -> None:
    """Delete old values of Idempotency-Key. The same value is then a new request."""
    before = retention.before(settings.KEEP_REQUEST_KEYS)
    if before:
        retention.delete(RequestKey.objects.filter(created_at__lt=before))


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
