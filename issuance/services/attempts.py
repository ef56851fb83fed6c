"""Starting an attempt, and walking one to its end inside a request."""

from typing import Any

from django.db import IntegrityError, transaction

from accounts import audit, quotas
from authorities import keyturns
from authorities.models import AcmeAccount
from certctrl import clock
from certctrl.errors import Conflict
from issuance import tasks, workflow
from issuance.challenges import delegation
from issuance.models import Certificate, Issuance, names_key
from issuance.renewal import failover
from issuance.services.idempotency import Idempotency, once
from keystore.models import Envelope

State = Issuance.State
Reason = Issuance.Reason


def audit_certificate(certificate: Certificate, done: str, **facts: Any) -> None:
    what = f"certificate:{certificate.pk}"
    audit.note(certificate.owner, f"certificate.{done}", what, domain=certificate.domain, **facts)


# --- attempts ---


def request_issuance(
    certificate: Certificate, reason: str = Reason.MANUAL, validity_seconds: int | None = None
) -> Issuance:
    """Open an attempt, or answer with the one that is open: it is tried at once, whatever its backoff."""
    refuse_issuance(certificate)
    open_one = Issuance.objects.open_of(certificate)
    if open_one:
        return retry_now(open_one)
    try:
        with transaction.atomic():
            if not Certificate.objects.filter(pk=certificate.pk, retired_at=None).update(
                renew_at=None
            ):
                raise Conflict(f"{certificate.domain} was deleted; create it again.")
            quotas.refuse_more(certificate.owner, "open_attempts")
            return open_issuance(certificate, reason, validity_seconds)
    except IntegrityError:
        return Issuance.objects.open().get(certificate=certificate)


def refuse_issuance(certificate: Certificate) -> None:
    account = certificate.account
    if certificate.retired_at:
        raise Conflict(f"{certificate.domain} was deleted; create it again.")
    if account.status == AcmeAccount.Status.DEACTIVATED:
        raise Conflict(
            f"The account {account.name} was deactivated at its CA; give the certificate another account."
        )
    if certificate.key_policy == Envelope.Policy.DEVICE_REQUIRED:
        raise Conflict(
            f"{certificate.domain} is DEVICE_REQUIRED and has no device: assign one first, or its key would be lost."
        )
    if not delegation.credential_for(certificate) and not account.is_private:
        raise Conflict(delegation.lacking(certificate))


def open_issuance(
    certificate: Certificate, reason: str, validity_seconds: int | None = None
) -> Issuance:
    """The row of a new attempt. IntegrityError when one is open already."""
    credential_id = delegation.credential_ids_for([certificate])[certificate.pk]
    issuance = new_issuance(certificate, reason, credential_id, validity_seconds)
    issuance.number = certificate.issuances.count() + 1
    issuance.save(force_insert=True)
    return issuance


def new_issuance(
    certificate: Certificate,
    reason: str,
    credential_id: int | None,
    validity_seconds: int | None = None,
) -> Issuance:
    """A new attempt, not saved: its account and what else it keeps, whatever becomes of the certificate. Whoever stores
    it counts its `number`.

    Reads the certificate's `account`, its `staging_account`, and `fallback_account`: select them for many.
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
    """A private CA signs a renewal for as long as it signed before, and at first as its account has it."""
    before = None
    if account.is_private:
        signed = certificate.issuances.filter(state=State.ISSUED).order_by("-pk")
        before = signed.values_list("validity_seconds", flat=True).first()
    return before or account.defaults.get("validity_seconds")


def retry_now(issuance: Issuance) -> Issuance:
    """Act on it at once, where nobody holds it; where somebody does, it is being done."""
    now = clock.now()
    idle = Issuance.objects.open().filter(pk=issuance.pk, holder="", wake_at__gt=now)
    idle.update(wake_at=now, queued_at=None)
    issuance.refresh_from_db()
    return issuance


def advance(issuance: Issuance | None) -> Issuance | None:
    """Set an attempt going, after the transaction that made it: a private CA's walks its six steps here and now, any
    other goes to the workers, and so does one whose RSA key would keep the web process busy."""
    if not issuance or not issuance.is_open:
        return issuance
    if (
        not Issuance.objects.sendable(clock.now())
        .filter(pk=issuance.pk, holder="")
        .update(queued_at=clock.now())
    ):
        return issuance
    if not issuance.account.is_private or not run_inline(issuance):
        tasks.start(issuance.pk, issuance.state)
    issuance.refresh_from_db()
    return issuance


def run_inline(issuance: Issuance) -> bool:
    """All six steps in this process. False, and nothing was done, while its owner has RSA keys made."""
    if issuance.certificate.key_type != Certificate.KeyType.RSA:
        walk_steps(issuance)
        return True
    try:
        with keyturns.turn_of(issuance.certificate.owner_id):
            walk_steps(issuance)
    except keyturns.Busy:
        return False
    return True


def walk_steps(issuance: Issuance) -> None:
    for step in workflow.STEPS:
        if not workflow.take(step, issuance.pk):
            return


def issue(
    certificate: Certificate,
    reason: str = Reason.MANUAL,
    validity_seconds: int | None = None,
    idempotency: Idempotency | None = None,
) -> Issuance:
    """A person's `issues` or `renew`: the open attempt, or a new one, set going."""

    def make() -> tuple[Certificate, Issuance | None]:
        issuance = request_issuance(certificate, reason, validity_seconds)
        audit_certificate(certificate, "issuance_requested", issue_history_id=issuance.pk)
        return certificate, issuance

    _, issuance = once(certificate.owner, idempotency, make)
    assert issuance
    advance(issuance)
    return issuance


def retry_attempt(issuance: Issuance) -> Issuance:
    """Try an open attempt at once, and one that failed or was canceled anew. Conflict for one that issued, and for one
    that another has followed: that one is to be tried."""
    certificate = issuance.certificate
    if issuance.state == State.ISSUED:
        raise Conflict(
            f"Attempt {issuance.number} of {certificate.domain} has issued; there is nothing to retry."
        )
    if certificate.issuances.filter(pk__gt=issuance.pk).exists():
        raise Conflict(
            f"Attempt {issuance.number} of {certificate.domain} was followed by another; retry the latest."
        )
    return issue(certificate)
