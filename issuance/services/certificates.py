"""Create, change and delete certificates."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from accounts import quotas
from accounts.models import User
from authorities import accounts
from authorities.models import AcmeAccount, PrivateCA
from certctrl import clock
from certctrl.errors import Conflict, TooLate
from certctrl.sentences import sentence as _
from certctrl.statements import Parameter, insert, select
from certctrl.turns import SKEW
from devices.models import Device
from dnsproviders.models import DnsCredential
from issuance import rollout, wraps
from issuance.models import Certificate, Issuance, Label, digest
from issuance.renewal import ari
from issuance.services import assigning, canceling, labeling, locks, validation
from issuance.services.attempts import (
    advance,
    audit_certificate,
    first_issuance,
    request_issuance,
)
from issuance.services.idempotency import Idempotency, once

Reason = Issuance.Reason
# Written when the account changes, because the new account has not failed yet.
ANEW = {"failures": 0, "failing_since": None, "last_failure": "", "proved_at": None}
MOST_COMPARED = 500  # certificates of one domain whose names are compared
A_MINUTE = timedelta(minutes=1)
TEN_MINUTES = timedelta(minutes=10)


@dataclass(frozen=True)
class CertificateSpec:
    """A validated request for a certificate. `names` are A-labels, the domain first."""

    names: Sequence[str]
    account: AcmeAccount
    credential: DnsCredential | None
    key_type: str
    key_size: int
    settings: Mapping[str, Any]  # other columns of Certificate that a person may set

    def digest(self) -> str:
        credential = self.credential.pk if self.credential else None
        names = [self.names[0], *sorted(self.names[1:])]
        return digest(
            names, self.account.pk, credential, self.key_type, self.key_size, dict(self.settings)
        )


class SameNames(Conflict):
    """The owner has a certificate with exactly these names."""


def create_certificate(
    owner: User,
    spec: CertificateSpec,
    *,
    issue: bool,
    idempotency: Idempotency | None = None,
    unless_same_names: bool = False,
) -> tuple[Certificate, Issuance | None]:
    """Make the certificate, and start its first attempt when `issue` is set.

    The same request sent again soon returns the certificate that the first request made. Under
    DEVICE_REQUIRED nothing is issued until a device is assigned; the attempt is None.

    With `unless_same_names`, raise SameNames when a new certificate would have exactly the names of
    another one. Raise Invalid, NotFound, Conflict, QuotaExceeded and IdempotencyConflict.
    """
    certificate, issuance = make_certificate(
        owner, spec, issue=issue, idempotency=idempotency, unless_same_names=unless_same_names
    )
    return certificate, advance(issuance)


def make_certificate(
    owner: User,
    spec: CertificateSpec,
    *,
    issue: bool,
    validity_seconds: int | None = None,
    idempotency: Idempotency | None = None,
    unless_same_names: bool = False,
) -> tuple[Certificate, Issuance | None]:
    """Make the rows of `create_certificate`, and start nothing.

    It is for callers that write more in the same transaction. They call `advance()` after it.
    `validity_seconds` is for a private CA.
    """

    def make() -> tuple[Certificate, Issuance | None]:
        fallback_id = spec.settings.get("fallback_account_id")
        locks.hold(owner, credential=spec.credential, account=spec.account, fallback_id=fallback_id)
        same = _same_request(owner, spec)
        if same and _answers(same, spec, validity_seconds):
            certificate = same
        else:
            if unless_same_names:
                _refuse_same_names(owner, spec)
            certificate = new_certificate(owner, spec, issue=issue)
        if certificate.current:
            return certificate, certificate.current.issuance if issue else None
        if not issue or certificate.lacks_device:
            return certificate, None
        # A person who asks again while it fails does not wait for the retry table.
        reason = Reason.MANUAL if certificate.failing_since else Reason.NEW
        if certificate is not same:
            return certificate, first_issuance(certificate, validity_seconds)
        return certificate, request_issuance(certificate, reason, validity_seconds)

    return once(owner, idempotency, make)


def issue_at_private_ca(
    private_ca: PrivateCA,
    account_id: int | None,
    spec_of: Callable[[AcmeAccount], CertificateSpec],
    *,
    device: Device | None = None,
    validity_seconds: int | None = None,
    idempotency: Idempotency | None = None,
) -> tuple[Certificate, Issuance | None]:
    """Issue a certificate of this private CA at once, and assign it to `device`.

    The account is `account_id`, or any account of the CA when that is None. `spec_of` returns the
    request for the account that was found. Raise the errors of `create_certificate`.
    """
    with transaction.atomic():  # a request that is refused leaves no account behind
        account = accounts.account_of_private_ca(private_ca, account_id)
        certificate, issuance = make_certificate(
            private_ca.owner,
            spec_of(account),
            issue=True,
            validity_seconds=validity_seconds,
            idempotency=idempotency,
        )
        if device:
            issuance = assigning.add(certificate, device, validity_seconds) or issuance
    return certificate, advance(issuance)


def _same_request(owner: User, spec: CertificateSpec) -> Certificate | None:
    """Return the newest certificate that the same request made, or None.

    Lock its open attempt first. So the certificate is never read between "open" and "issued".
    """
    wanted = {"owner": owner.pk, "domain": spec.names[0], "digest": spec.digest()}
    newest = _newest(**wanted)
    if not newest:
        return None
    locks.lock_attempt(newest[0][0])
    same: Certificate | None = next(iter(_same(**wanted)), None)
    return same


def with_names(owner: User, names: Collection[str]) -> list[int]:
    """Return the ids of the owner's certificates with exactly these names, the newest first."""
    rows = Certificate.objects.filter(owner=owner, domain__in=names, retired_at=None)
    some = rows.order_by("-pk").values_list("pk", "names")[:MOST_COMPARED]
    return [pk for pk, theirs in some if set(theirs) == set(names)]


def _refuse_same_names(owner: User, spec: CertificateSpec) -> None:
    if found := with_names(owner, spec.names):
        raise SameNames(
            _(
                "Certificate %(pk)s has exactly these names. Renew it, or confirm that you want a "
                "second one.",
                pk=found[0],
            )
        )


@select
def _newest(owner: Parameter, domain: Parameter, digest: Parameter) -> QuerySet[Certificate, Any]:
    return _by_request(owner, domain, digest).values_list("pk")


@select
def _same(owner: Parameter, domain: Parameter, digest: Parameter) -> QuerySet[Certificate]:
    return _by_request(owner, domain, digest).select_related("current__issuance")


def _by_request(owner: Parameter, domain: Parameter, digest: Parameter) -> QuerySet[Certificate]:
    """Return the newest certificate that the request made."""
    made = Certificate.objects.filter(
        owner=owner, domain=domain, request_digest=digest, retired_at=None
    )
    return made.order_by("-pk")[:1]


def _answers(certificate: Certificate, spec: CertificateSpec, validity_seconds: int | None) -> bool:
    """Return whether the certificate is what the request would make.

    It is when it was never issued, or was issued in the last ten minutes. A private CA issues at
    once, with any validity. There it must be made in the last minute, with the same validity. A
    certificate whose revocation was asked for is not.
    """
    version = certificate.current
    if not version or version.revoke_asked_at:
        return not version
    if not spec.account.is_private:
        return _is_within(version.created_at, TEN_MINUTES)
    seconds = validity_seconds or spec.account.defaults.get("validity_seconds")
    return (
        _is_within(certificate.created_at, A_MINUTE)
        and version.issuance.validity_seconds == seconds
    )


def _is_within(at: datetime, span: timedelta) -> bool:
    """Return whether `at` is less than `span` ago.

    A time more than SKEW in the future comes from a clock that was ahead, and does not count.
    """
    return -SKEW < clock.now() - at < span


def unsaved(owner: User, spec: CertificateSpec, **more: Any) -> Certificate:
    """Return the certificate that the request would make."""
    return Certificate(
        owner=owner,
        domain=spec.names[0],
        names=list(spec.names),
        account=spec.account,
        credential=spec.credential,
        key_type=spec.key_type,
        key_size=spec.key_size,
        **spec.settings,
        **more,
    )


def judge(spec: CertificateSpec) -> None:
    """Raise Invalid or NotFound for a request that cannot be served. Nothing is stored."""
    validation.judge(
        validation.Wanted(spec.names, spec.account, spec.key_type, spec.key_size, spec.settings)
    )


def new_certificate(owner: User, spec: CertificateSpec, *, issue: bool = False) -> Certificate:
    """Store a new certificate and audit it. Raise Invalid, NotFound and QuotaExceeded.

    With `issue`, raise QuotaExceeded also when the owner may have no more open attempts.
    """
    judge(spec)
    quotas.refuse_more(owner, "certificates", *(["open_attempts"] if issue else []))
    certificate = insert(unsaved(owner, spec, request_digest=spec.digest()))
    no_labels = {"labels": Label.objects.none()}  # a new row has none: nobody needs to ask
    certificate._prefetched_objects_cache = no_labels  # type: ignore[attr-defined]
    facts = {"account": spec.account.pk, "key_policy": certificate.key_policy}
    export = certificate.server_decrypt_export
    audit_certificate(
        certificate, "created", names=len(spec.names), server_decrypt_export=export, **facts
    )
    return certificate


def _audit_changes(certificate: Certificate, changes: Mapping[str, Any]) -> None:
    """Write the old and the new value of each changed column into the audit log.

    Changes of export and of key policy are events of their own.
    """
    changed = {}
    for name, new in changes.items():
        old = getattr(certificate, name)
        if old != new:
            changed[name] = [getattr(old, "pk", old), getattr(new, "pk", new)]
    if export := changed.pop("server_decrypt_export", None):
        audit_certificate(certificate, f"export_switched_{'on' if export[1] else 'off'}")
    if policy := changed.pop("key_policy", None):
        audit_certificate(certificate, "key_policy_changed", key_policy=policy)
    if changed:
        audit_certificate(certificate, "changed", changes=changed)


class Stale(Conflict):
    """Settings changed after a person had read them. `columns` has their names."""

    def __init__(self, domain: str, columns: Sequence[str]) -> None:
        super().__init__(
            _(
                "The settings of %(domain)s changed meanwhile: %(columns)s. Read them again, then "
                "send the change again.",
                domain=domain,
                columns=", ".join(columns),
            )
        )
        self.columns = columns


def update_certificate(
    certificate: Certificate, changes: Mapping[str, Any], *, seen: Mapping[str, Any] | None = None
) -> Issuance | None:
    """Change settings of the certificate. `changes` has the new values by column.

    A new account, for example production after staging, cancels the open attempt. Then the
    certificate is issued at the new account. Return this new attempt, or None if there is none.

    `seen` has the columns as the caller has read them. Raise Stale when one is different by now.
    Raise TooLate when the CA of the old account is signing already. Raise Invalid, NotFound,
    Conflict and QuotaExceeded.
    """
    with transaction.atomic():
        locks.hold(
            certificate.owner,
            credential=changes.get("credential"),
            account=changes.get("account"),
            fallback_id=changes.get("fallback_account_id"),
        )
        locks.lock_attempt(certificate.pk)
        # Read it again, because an attempt may have ended since. Its writes must stay.
        certificate.refresh_from_db(from_queryset=Certificate.objects.select_for_update())
        read = seen or {}
        if stale := [name for name in read if getattr(certificate, name) != read[name]]:
            raise Stale(certificate.domain, stale)
        validation.judge(validation.changed(certificate, changes))
        account = changes.get("account", certificate.account)
        policy = changes.get("key_policy", certificate.key_policy)
        moves = account.pk != certificate.account_id
        changed = {name for name in changes if getattr(certificate, name) != changes[name]}
        _audit_changes(certificate, changes)
        takes_new_key = "key_policy" in changed and _change_policy(certificate, policy)
        open_one = Issuance.objects.open_of(certificate)
        if moves and open_one:
            canceling.cancel_attempt(open_one)
        fields = {**changes, **(ANEW if moves else {})}
        if changed:
            # The request that made it no longer matches, and makes another certificate.
            fields["request_digest"] = digest("changed", certificate.pk)
        for name, value in fields.items():
            setattr(certificate, name, value)
        _reschedule(certificate)
        certificate.save(update_fields=[*fields, "renew_at", "updated_at"])
        if "rollout" in changes or "install_window" in changes:
            rollout.wake(certificate)
        issues = takes_new_key or (moves and not certificate.lacks_device)
        issuance = request_issuance(certificate, Reason.MANUAL) if issues else None
        if changed & {"key_policy", "server_decrypt_export"} and not takes_new_key:
            rollout.reach(certificate, certificate.active_devices().values_list("pk", flat=True))
    return advance(issuance)


def _change_policy(certificate: Certificate, policy: str) -> bool:
    """Apply the key policy at once, to the current key and to the keys of attempts.

    Return whether the policy takes a new key, because the server cannot open the current one. A
    turn that has made no key yet loses its attempt, because it would use the old policy. Raise
    Conflict when no recipient could open the key any more.
    """
    certificate.key_policy = policy
    if certificate.lacks_device and (certificate.current or Issuance.objects.open_of(certificate)):
        raise Conflict(
            _(
                "No device is assigned to %(domain)s. Assign one, then set DEVICE_REQUIRED.",
                domain=certificate.domain,
            )
        )
    quotas.lock(certificate.owner_id)  # before the devices
    takes_new_key = wraps.fit(certificate)
    held = Issuance.objects.open().filter(certificate=certificate, key=None).exclude(holder="")
    held.update(holder="", wake_at=clock.now(), queued_at=None)
    return takes_new_key


def _reschedule(certificate: Certificate) -> None:
    """Set `renew_at` after a change of `auto_renew` or `renew_days_before`.

    An open attempt sets it at its end. A retry that is planned stays.
    """
    version = certificate.current
    if version and not certificate.auto_renew:
        certificate.renew_at = None
    is_retried = certificate.failures and certificate.renew_at
    if not version or is_retried or Issuance.objects.open_of(certificate):
        return
    at = ari.renew_at(version, certificate.renew_days_before)
    certificate.renew_at = at if certificate.auto_renew else None


def retire(certificate: Certificate) -> None:
    """Delete the certificate, so that it is never renewed again. Cancel its attempt if possible.

    The task `prune` deletes the row later, with its keys (KEEP_ATTEMPTS).
    """
    with transaction.atomic():
        locks.lock_attempt(certificate.pk)
        Certificate.objects.filter(pk=certificate.pk).update(
            retired_at=clock.now(), renew_at=None, lacks=None
        )
        assigning.unassign_all(certificate)
        labeling.set_labels(certificate, ())
        open_one = Issuance.objects.open_of(certificate)
        if open_one and open_one.state in Issuance.BEFORE_VALIDATED:
            # The CA may sign meanwhile. Then the version is stored, and not renewed.
            with suppress(TooLate, Conflict):
                canceling.cancel_attempt(open_one)
        Certificate.objects.filter(pk=certificate.pk).update(renew_at=None)
        audit_certificate(certificate, "deleted")
