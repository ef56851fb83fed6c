"""What people start. Each call is one decision, written in one transaction; workers are told after it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction

from accounts import audit, quotas
from accounts.models import User
from certctrl import clock
from certctrl.errors import Conflict, Invalid, TooLate
from certctrl.turns import SKEW
from dnsproviders.models import DnsCredential
from issuance import canceling, choosing, delegation, flow, holding, keyturns, refusals, renewalinfo, tasks
from issuance.idempotency import Idempotency, once
from issuance.models import AcmeAccount, Certificate, CertificateVersion, Issuance
from keystore import envelope
from keystore.models import Envelope

State = Issuance.State
Reason = Issuance.Reason
A_DAY = timedelta(days=1)
ANEW = {"failures": 0, "failing_since": None, "proved_at": None}  # another account did not fail yet
A_MINUTE = timedelta(minutes=1)
TEN_MINUTES = timedelta(minutes=10)


def digest(*parts: Any) -> str:
    """SHA-256, hex, of any JSON value, whatever the order of its members."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


# --- certificates ---


@dataclass(frozen=True)
class Ask:
    """A validated request for a certificate. `names` are A-labels, the domain first."""

    names: Sequence[str]
    account: AcmeAccount
    credential: DnsCredential | None
    key_type: str
    key_size: int
    settings: Mapping[str, Any]  # the columns of Certificate that a person may set besides

    def digest(self) -> str:
        credential = self.credential.pk if self.credential else None
        names = [self.names[0], *sorted(self.names[1:])]
        return digest(names, self.account.pk, credential, self.key_type, self.key_size, dict(self.settings))


def names_key(account: AcmeAccount, names: Sequence[str]) -> str:
    return digest(account.pk, sorted(names))


def create_certificate(
    owner: User, ask: Ask, *, issue: bool, idempotency: Idempotency | None = None
) -> tuple[Certificate, Issuance | None]:
    """Make the certificate, and its first attempt when `issue` is set.

    The same request sent twice, at once or after a time-out, answers with the one that the first made. Under
    DEVICE_REQUIRED nothing is issued yet: the first device that is assigned does that.
    """
    certificate, issuance = make_certificate(owner, ask, issue=issue, idempotency=idempotency)
    return certificate, advance(issuance)


def make_certificate(
    owner: User,
    ask: Ask,
    *,
    issue: bool,
    validity_seconds: int | None = None,
    idempotency: Idempotency | None = None,
) -> tuple[Certificate, Issuance | None]:
    """The rows of `create_certificate`, for whoever has more to write in the same transaction; then `advance()`."""

    def make() -> tuple[Certificate, Issuance | None]:
        fallback_id = ask.settings.get("fallback_account_id")
        holding.hold(owner, credential=ask.credential, account=ask.account, fallback_id=fallback_id)
        same = _same_ask(owner, ask)
        certificate = same if same and _answers(same, ask, validity_seconds) else _new_certificate(owner, ask)
        if certificate.current:
            return certificate, certificate.current.issuance if issue else None
        if not issue or certificate.key_policy == Envelope.Policy.DEVICE_REQUIRED:
            return certificate, None
        # Who asks for it again while it fails is a person whom no backoff holds up.
        reason = Reason.MANUAL if certificate.failing_since else Reason.NEW
        return certificate, request_issuance(certificate, reason, validity_seconds)

    return once(owner, idempotency, make)


def _same_ask(owner: User, ask: Ask) -> Certificate | None:
    """The newest certificate that the same request made. Its attempt ended before this, or ends after this transaction:
    so nobody takes it for one that is neither open nor issued."""
    same = Certificate.objects.filter(owner=owner, domain=ask.names[0], ask=ask.digest(), retired_at=None)
    if newest := same.order_by("pk").last():
        _lock_attempt(newest)
    return same.select_related("current__issuance").order_by("pk").last()


def _answers(certificate: Certificate, ask: Ask, validity_seconds: int | None) -> bool:
    """Whether it is what the request would make: never issued yet, or issued just now. Private CAs do that at once,
    with whatever validity is asked for."""
    version = certificate.current
    if not version or version.revoke_asked_at:
        return not version
    if not ask.account.is_private:
        return _is_within(version.created_at, TEN_MINUTES)
    seconds = validity_seconds or ask.account.defaults.get("validity_seconds")
    return _is_within(certificate.created_at, A_MINUTE) and version.issuance.validity_seconds == seconds


def _is_within(at: datetime, span: timedelta) -> bool:
    """Not longer ago than that, nor written by a clock that was ahead."""
    return -SKEW < clock.now() - at < span


def _new_certificate(owner: User, ask: Ask) -> Certificate:
    refusals.judge(refusals.Wanted(ask.names, ask.account, ask.key_type, ask.key_size, ask.settings))
    quotas.refuse_more(owner, "certificates")
    certificate = Certificate.objects.create(
        owner=owner,
        domain=ask.names[0],
        names=list(ask.names),
        names_key=names_key(ask.account, ask.names),
        account=ask.account,
        credential=ask.credential,
        key_type=ask.key_type,
        key_size=ask.key_size,
        ask=ask.digest(),
        **ask.settings,
    )
    facts = {"account": ask.account.pk, "key_policy": certificate.key_policy}
    export = certificate.server_decrypt_export
    _audit(certificate, "created", names=len(ask.names), server_decrypt_export=export, **facts)
    return certificate


def _audit(certificate: Certificate, done: str, **facts: Any) -> None:
    what = f"certificate:{certificate.pk}"
    audit.note(certificate.owner, f"certificate.{done}", what, domain=certificate.domain, **facts)


def _audit_changes(certificate: Certificate, changes: Mapping[str, Any]) -> None:
    """What differs, old and new; whether the key may be exported, and who can open it, as events of their own."""
    changed = {}
    for name, new in changes.items():
        old = getattr(certificate, name)
        if old != new:
            changed[name] = [getattr(old, "pk", old), getattr(new, "pk", new)]
    if export := changed.pop("server_decrypt_export", None):
        _audit(certificate, f"export_switched_{'on' if export[1] else 'off'}")
    if policy := changed.pop("key_policy", None):
        _audit(certificate, "key_policy_changed", key_policy=policy)
    if changed:
        _audit(certificate, "changed", changes=changed)


def update_certificate(certificate: Certificate, changes: Mapping[str, Any]) -> Issuance | None:
    """Change settings. Another account (staging to production) issues anew, instead of the attempt that is open at the
    old one; the attempt is answered. TooLate while that CA signs."""
    with transaction.atomic():
        holding.hold(
            certificate.owner,
            credential=changes.get("credential"),
            account=changes.get("account"),
            fallback_id=changes.get("fallback_account_id"),
        )
        _lock_attempt(certificate)
        # As it is now: an attempt may have ended since it was read, and what it wrote must stay.
        certificate.refresh_from_db(from_queryset=Certificate.objects.select_for_update())
        refusals.judge(refusals.changed(certificate, changes))
        account = changes.get("account", certificate.account)
        policy = changes.get("key_policy", certificate.key_policy)
        moves = account.pk != certificate.account_id
        if policy != certificate.key_policy:
            _change_policy(certificate, policy)
        open_one = certificate.open_issuance()
        if moves and open_one:
            canceling.cancel_attempt(open_one)
        _audit_changes(certificate, changes)
        fields = {**changes, **(ANEW if moves else {})}
        if any(getattr(certificate, name) != value for name, value in changes.items()):
            fields["ask"] = digest("changed", certificate.pk)  # whoever asks for what it was gets another one
        for name, value in fields.items():
            setattr(certificate, name, value)
        certificate.names_key = names_key(account, certificate.names)
        _reschedule(certificate)
        certificate.save(update_fields=[*fields, "names_key", "renew_at", "updated_at"])
        issues = moves and policy != Envelope.Policy.DEVICE_REQUIRED
        issuance = request_issuance(certificate, Reason.MANUAL) if issues else None
    return advance(issuance)


def _change_policy(certificate: Certificate, policy: str) -> None:
    """The key that there is follows the policy at once; Conflict where that would leave nobody who can open it."""
    if policy == Envelope.Policy.DEVICE_REQUIRED and (certificate.current or certificate.open_issuance()):
        raise Conflict(
            f"{certificate.domain} has no device that could open its key: assign one before DEVICE_REQUIRED."
        )
    if certificate.current:
        envelope.rewrite_recipients(certificate.current.key, (), policy=policy)


def _reschedule(certificate: Certificate) -> None:
    """`renew_at` after a change of `auto_renew` or `renew_days_before`; an attempt in progress sets it at its end."""
    version = certificate.current
    if version and not certificate.auto_renew:
        certificate.renew_at = None
    is_retried = certificate.failures and certificate.renew_at
    if not version or is_retried or certificate.open_issuance():
        return
    at = renewalinfo.renew_at(version, certificate.renew_days_before)
    certificate.renew_at = at if certificate.auto_renew else None


def _lock_attempt(certificate: Certificate) -> None:
    """The open attempt, then the certificate: in this order a turn's end locks them."""
    Issuance.objects.open().filter(certificate=certificate).select_for_update().first()


def retire(certificate: Certificate) -> None:
    """Never renew it again, and end its attempt where that is still possible; `prune()` removes what is left."""
    with transaction.atomic():
        _lock_attempt(certificate)
        Certificate.objects.filter(pk=certificate.pk).update(retired_at=clock.now(), renew_at=None)
        open_one = certificate.open_issuance()
        if open_one and open_one.state in Issuance.BEFORE_VALIDATED:
            with suppress(TooLate, Conflict):  # the CA signs meanwhile: what comes is stored, and not renewed
                canceling.cancel_attempt(open_one)
        Certificate.objects.filter(pk=certificate.pk).update(renew_at=None)
        _audit(certificate, "deleted")


# --- attempts ---


def request_issuance(
    certificate: Certificate, reason: str = Reason.MANUAL, validity_seconds: int | None = None
) -> Issuance:
    """Open an attempt, or answer with the one that is open: it is tried at once, whatever its backoff."""
    _refuse_issuance(certificate)
    open_one = certificate.open_issuance()
    if open_one:
        return retry_now(open_one)
    try:
        with transaction.atomic():
            if not Certificate.objects.filter(pk=certificate.pk, retired_at=None).update(renew_at=None):
                raise Conflict(f"{certificate.domain} was deleted; create it again.")
            quotas.refuse_more(certificate.owner, "open_attempts")
            return open_issuance(certificate, reason, validity_seconds)
    except IntegrityError:
        return Issuance.objects.open().get(certificate=certificate)


def _refuse_issuance(certificate: Certificate) -> None:
    account = certificate.account
    if certificate.retired_at:
        raise Conflict(f"{certificate.domain} was deleted; create it again.")
    if account.status == AcmeAccount.Status.DEACTIVATED:
        raise Conflict(f"The account {account.name} was deactivated at its CA; give the certificate another account.")
    if certificate.key_policy == Envelope.Policy.DEVICE_REQUIRED:
        raise Conflict(
            f"{certificate.domain} is DEVICE_REQUIRED and has no device: assign one first, or its key would be lost."
        )
    if not delegation.credential_for(certificate) and not account.is_private:
        raise Conflict(delegation.lacking(certificate))


def open_issuance(certificate: Certificate, reason: str, validity_seconds: int | None = None) -> Issuance:
    """The row of a new attempt. IntegrityError when one is open already."""
    credential_id = delegation.credential_ids_for([certificate])[certificate.pk]
    issuance = new_issuance(certificate, reason, credential_id, validity_seconds)
    issuance.number = certificate.issuances.count() + 1
    issuance.save(force_insert=True)
    return issuance


def new_issuance(
    certificate: Certificate, reason: str, credential_id: int | None, validity_seconds: int | None = None
) -> Issuance:
    """A new attempt, not saved: its account and what else it keeps, whatever becomes of the certificate. Whoever stores
    it counts its `number`.

    Reads the certificate's `account`, its `staging_account`, and `fallback_account`: select them for many.
    """
    now = clock.now()
    account, proves = choosing.account_for(certificate, reason)
    return Issuance(
        certificate=certificate,
        account=account,
        credential_id=credential_id,
        names_key=names_key(account, certificate.names),
        proves=proves,
        reason=reason,
        state_since=now,
        deadline_at=now + flow.STEPS[0].limit,
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
    if not Issuance.objects.sendable(clock.now()).filter(pk=issuance.pk, holder="").update(queued_at=clock.now()):
        return issuance
    if not issuance.account.is_private or not walk(issuance):
        tasks.start(issuance.pk, issuance.state)
    issuance.refresh_from_db()
    return issuance


def walk(issuance: Issuance) -> bool:
    """All six steps in this process. False, and nothing was done, while its owner has RSA keys made."""
    if issuance.certificate.key_type != Certificate.KeyType.RSA:
        _walk(issuance)
        return True
    try:
        with keyturns.turn_of(issuance.certificate.owner_id):
            _walk(issuance)
    except keyturns.Busy:
        return False
    return True


def _walk(issuance: Issuance) -> None:
    for step in flow.STEPS:
        if not flow.take(step, issuance.pk):
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
        _audit(certificate, "issuance_requested", issue_history_id=issuance.pk)
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
        raise Conflict(f"Attempt {issuance.number} of {certificate.domain} has issued; there is nothing to retry.")
    if certificate.issuances.filter(pk__gt=issuance.pk).exists():
        raise Conflict(f"Attempt {issuance.number} of {certificate.domain} was followed by another; retry the latest.")
    return issue(certificate)


# --- revocation ---

REASONS = {  # RFC 5280, section 5.3.1: those that a subscriber may give
    "unspecified": 0,
    "keyCompromise": 1,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
}


def revoke(certificate: Certificate, reason: object = 0, actor: str = "", ip: str | None = None) -> CertificateVersion:
    """Ask for the revocation of the current version. A worker carries it out, as often as it takes.

    `reason` is a name or a number of REASONS. Raises Invalid, and Conflict when there is nothing to revoke.
    """
    number = REASONS.get(reason) if isinstance(reason, str) else reason
    if isinstance(number, bool) or not isinstance(number, int) or number not in REASONS.values():
        known = ", ".join(f"{name} ({each})" for name, each in REASONS.items())
        raise Invalid(f"That is no reason for a revocation; give one of {known}.", field="reason")
    version = certificate.current
    if not version:
        raise Conflict(f"{certificate.domain} was never issued; there is nothing to revoke.")
    unasked = CertificateVersion.objects.filter(pk=version.pk, revoke_asked_at=None)
    now = clock.now()
    if unasked.update(revoke_asked_at=now, revoke_reason=number, wake_at=now, queued_at=now):
        who = actor or str(certificate.owner)
        audit.record(certificate.owner, who, "certificate.revoked", str(version), ip, reason=number)
        tasks.nudge(tasks.revoke, version.pk)
    version.refresh_from_db()
    return version
