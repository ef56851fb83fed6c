"""Start attempts, and take all steps of an attempt inside a request."""

from typing import Any

from django.db import IntegrityError, transaction

from accounts import audit, quotas
from authorities import keyqueue
from authorities.models import AcmeAccount
from certctrl import clock
from certctrl.errors import Conflict
from certctrl.sentences import sentence as _
from certctrl.statements import insert
from dnsproviders.registry import refuse_disabled
from issuance import tasks, workflow
from issuance.challenges import delegation, registry
from issuance.models import Certificate, Issuance, names_key
from issuance.renewal import failover
from issuance.services.idempotency import Idempotency, once

State = Issuance.State
Reason = Issuance.Reason


def audit_certificate(certificate: Certificate, done: str, **facts: Any) -> None:
    audit.note_row(certificate, f"certificate.{done}", domain=certificate.domain, **facts)


def request_issuance(
    certificate: Certificate, reason: str = Reason.MANUAL, validity_seconds: int | None = None
) -> Issuance:
    """Return an open attempt of the certificate: the one that is open, or a new one.

    An attempt that is open is tried at once, whatever its backoff. `reason` is an Issuance.Reason.
    Raise Conflict when the certificate cannot be issued, and QuotaExceeded.
    """
    refuse_issuance(certificate)
    open_one = Issuance.objects.open_of(certificate)
    if open_one:
        return retry_now(open_one)
    try:
        with transaction.atomic():
            if not Certificate.objects.filter(pk=certificate.pk, retired_at=None).update(
                renew_at=None, lacks=None
            ):
                raise Conflict(
                    _("%(domain)s was deleted. Create it again.", domain=certificate.domain)
                )
            certificate.renew_at = None
            quotas.refuse_more(certificate.owner, "open_attempts")
            return open_issuance(certificate, reason, validity_seconds)
    except IntegrityError:
        return Issuance.objects.open().get(certificate=certificate)


def first_issuance(certificate: Certificate, validity_seconds: int | None = None) -> Issuance:
    """Store and return the first attempt of a certificate that this transaction made.

    It is stored as sent, so the caller sends it with `advance()` after the transaction. The caller
    has checked the quota. Raise Conflict when the certificate cannot be issued.
    """
    refuse_issuance(certificate)
    credential_id = delegation.credential_ids_for([certificate])[certificate.pk]
    issuance = new_issuance(certificate, Reason.NEW, credential_id, validity_seconds)
    issuance.queued_at = issuance.wake_at
    issuance.is_unsent = True
    return insert(issuance)


def refuse_issuance(certificate: Certificate) -> None:
    """Raise Conflict when the certificate cannot be issued."""
    account = certificate.account
    if certificate.retired_at:
        raise Conflict(_("%(domain)s was deleted. Create it again.", domain=certificate.domain))
    if account.status == AcmeAccount.Status.DEACTIVATED:
        raise Conflict(
            _(
                "The account %(name)s was deactivated at its CA. Give the certificate "
                "another account.",
                name=account.name,
            )
        )
    if certificate.lacks_device:
        raise Conflict(
            _(
                "%(domain)s has the policy DEVICE_REQUIRED and no device. Assign a device first.",
                domain=certificate.domain,
            )
        )
    if registry.for_certificate(certificate).in_zone and not account.is_private:
        credential = delegation.credential_for(certificate)
        if not credential:
            raise Conflict(delegation.lacking(certificate))
        refuse_disabled(credential.disabled)


def open_issuance(
    certificate: Certificate, reason: str, validity_seconds: int | None = None
) -> Issuance:
    """Store and return a new attempt. Raise IntegrityError when one is open already."""
    credential_id = delegation.credential_ids_for([certificate])[certificate.pk]
    issuance = new_issuance(certificate, reason, credential_id, validity_seconds)
    # The newest attempt is never pruned.
    newest = certificate.issuances.order_by("-pk").values_list("number", flat=True).first()
    issuance.number = (newest or 0) + 1
    issuance.save(force_insert=True)
    return issuance


def new_issuance(
    certificate: Certificate,
    reason: str,
    credential_id: int | None,
    validity_seconds: int | None = None,
) -> Issuance:
    """Return a new attempt that is not saved.

    Its account, credential and validity stay, whatever changes on the certificate later. The caller
    sets `number`.

    This reads `account`, `account.staging_account` and `fallback_account` of the certificate. Use
    select_related for many certificates.
    """
    now = clock.now()
    account, proves = failover.account_for(certificate, reason)
    return Issuance(
        certificate=certificate,
        account=account,
        credential_id=credential_id,
        names_key=names_key(account, certificate.names),
        proves=proves,
        reason=reason,
        state_since=now,
        deadline_at=now + workflow.STEPS[0].limit,
        wake_at=now,
        validity_seconds=validity_seconds or _usual_validity(certificate, account),
    )


def _usual_validity(certificate: Certificate, account: AcmeAccount) -> int | None:
    """Return the validity in seconds for a request without one. None leaves it to the CA.

    A private CA signs for as long as it did the last time. Before that, the account's default
    counts.
    """
    before = None
    if account.is_private:
        signed = certificate.issuances.filter(state=State.ISSUED).order_by("-pk")
        before = signed.values_list("validity_seconds", flat=True).first()
    return before or account.defaults.get("validity_seconds")


def retry_now(issuance: Issuance) -> Issuance:
    """Make an open attempt due now, and return it. A worker that holds it is already acting."""
    now = clock.now()
    idle = Issuance.objects.open().filter(pk=issuance.pk, holder="", wake_at__gt=now)
    idle.update(wake_at=now, queued_at=None)
    issuance.refresh_from_db()
    return issuance


def advance(issuance: Issuance | None) -> Issuance | None:
    """Start an open attempt, and return it as it is after that.

    Call it after the transaction that made the attempt. An attempt at a private CA takes its
    steps in this process. Any other goes to the workers. So does one that needs an RSA key while
    the owner's line for RSA keys is full.
    """
    if not issuance or not issuance.is_open:
        return issuance
    if not issuance.is_unsent:
        now = clock.now()
        idle = Issuance.objects.sendable(now).filter(pk=issuance.pk, holder="")
        if not idle.update(queued_at=now):
            return issuance
    issuance.is_unsent = False
    if issuance.account.is_private and run_inline(issuance):
        issuance.refresh_from_db()
    else:
        tasks.start(issuance.pk, issuance.state)
    return issuance


def run_inline(issuance: Issuance) -> bool:
    """Take the steps in this process. Return False when the owner's line is full.

    Then nothing was done. The line is for RSA keys, which take seconds of a core
    (`authorities.keyqueue`).
    """
    if issuance.certificate.key_type != Certificate.KeyType.RSA:
        walk_steps(issuance)
        return True
    try:
        with keyqueue.one_at_a_time(issuance.certificate.owner_id):
            walk_steps(issuance)
    except keyqueue.Busy:
        return False
    return True


def walk_steps(issuance: Issuance) -> None:
    later: workflow.Step | None = workflow.STEP_AT[issuance.state]
    while later:
        later = workflow.walk(later, issuance.pk)


def issue(
    certificate: Certificate,
    reason: str = Reason.MANUAL,
    validity_seconds: int | None = None,
    idempotency: Idempotency | None = None,
) -> Issuance:
    """Start an attempt because a person asked for it, and return it.

    It is the open attempt or a new one. With the same `idempotency` it is the one from the first
    request. Raise Conflict, QuotaExceeded and IdempotencyConflict.
    """

    def make() -> tuple[Certificate, Issuance | None]:
        issuance = request_issuance(certificate, reason, validity_seconds)
        audit_certificate(certificate, "issuance_requested", issue_history_id=issuance.pk)
        return certificate, issuance

    _, issuance = once(certificate.owner, idempotency, make)
    assert issuance
    advance(issuance)
    return issuance


def retry_attempt(issuance: Issuance) -> Issuance:
    """Retry an attempt, and return the attempt that is open after that.

    An open attempt is tried at once. After one that failed or was canceled, a new one is made.
    Raise Conflict when the attempt has issued, or when a later attempt exists.
    """
    certificate = issuance.certificate
    if issuance.state == State.ISSUED:
        raise Conflict(
            _(
                "Attempt %(number)s of %(domain)s succeeded, so it cannot be retried.",
                number=issuance.number,
                domain=certificate.domain,
            )
        )
    if certificate.issuances.filter(pk__gt=issuance.pk).exists():
        raise Conflict(
            _(
                "Attempt %(number)s of %(domain)s is not the latest attempt. Retry the latest one.",
                number=issuance.number,
                domain=certificate.domain,
            )
        )
    return issue(certificate)
