"""Do one thing with many certificates, after a dry run that says what will happen to each."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import ClassVar

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from accounts import quotas
from accounts.models import User
from certctrl import clock
from certctrl.errors import ApiError, Conflict, IdempotencyConflict, Invalid, NotFound
from certctrl.sentences import restored, stored
from certctrl.sentences import sentence as _
from issuance.models import Certificate, Issuance, RequestKey, open_attempts
from issuance.services import labeling, revocation
from issuance.services.attempts import audit_certificate, refuse_issuance
from issuance.services.certificates import update_certificate
from issuance.services.idempotency import Idempotency

MOST = 500  # certificates of one bulk action
DONE, UNCHANGED, REFUSED = "done", "unchanged", "refused"


@dataclass(frozen=True)
class Result:
    """The result for one certificate. In a dry run it is what would happen."""

    id: int
    domain: str
    outcome: str
    what: str


class Unchanged(Exception):
    """There is nothing to do. The text says why."""


class BulkAction:
    """One thing to do with a certificate.

    `judge` returns what will happen, in a sentence. It raises Unchanged, or the ApiError with which
    the certificate is refused. `act` does it, and may raise the same.
    """

    name: ClassVar[str]
    # Whether all certificates are changed in one transaction, together with the stored results.
    is_one_transaction: ClassVar[bool] = False

    def judge(self, certificate: Certificate) -> str:
        raise NotImplementedError

    def act(self, certificate: Certificate) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Renew(BulkAction):
    """Makes the renewal due. The scan opens the attempt, as the limits of the CA allow."""

    name = "renew"
    is_one_transaction = True

    def judge(self, certificate: Certificate) -> str:
        if Issuance.objects.open_of(certificate):
            raise Unchanged(_("An attempt is open already."))
        if certificate.renew_at and certificate.renew_at <= clock.now():
            raise Unchanged(_("It is due already, and waits for the CA's rate limits."))
        refuse_issuance(certificate)
        if not certificate.is_wanted:
            raise Conflict(
                _(
                    "Renewal of %(domain)s is off. Switch it on, or start an attempt of this "
                    "certificate alone.",
                    domain=certificate.domain,
                )
            )
        return _("It is due now. An attempt starts when the CA's rate limits allow it.")

    def act(self, certificate: Certificate) -> None:
        now = clock.now()
        is_open = Issuance.objects.open().filter(certificate=OuterRef("pk"))
        rows = Certificate.objects.filter(~Exists(is_open), pk=certificate.pk, retired_at=None)
        if rows.exclude(renew_at__lte=now).update(renew_at=now, updated_at=now):
            audit_certificate(certificate, "renewal_requested")


@dataclass(frozen=True)
class Revoke(BulkAction):
    reason: object
    actor: str = ""
    ip: str | None = None
    name = "revoke"

    def __post_init__(self) -> None:
        revocation.number_of(self.reason)

    def judge(self, certificate: Certificate) -> str:
        version = certificate.current
        if not version:
            raise Conflict(
                _(
                    "%(domain)s was never issued. There is nothing to revoke.",
                    domain=certificate.domain,
                )
            )
        if version.revoke_asked_at:
            raise Unchanged(_("Its revocation was asked for already."))
        return _("Version %(serial)s is revoked. This cannot be undone.", serial=version.serial)

    def act(self, certificate: Certificate) -> None:
        revocation.revoke(certificate, self.reason, self.actor, self.ip)


@dataclass(frozen=True)
class Renewal(BulkAction):
    """Switches the renewal on or off."""

    on: bool

    @property
    def name(self) -> str:  # type: ignore[override]
        return "renewal_on" if self.on else "renewal_off"

    def judge(self, certificate: Certificate) -> str:
        if certificate.auto_renew == self.on:
            raise Unchanged(
                _("Renewal is on already.") if self.on else _("Renewal is off already.")
            )
        return _("It renews by itself.") if self.on else _("It is not renewed any more, and ends.")

    def act(self, certificate: Certificate) -> None:
        update_certificate(certificate, {"auto_renew": self.on})


@dataclass(frozen=True)
class GiveLabel(BulkAction):
    """Gives a label, or removes it."""

    label: str
    gives: bool = True

    @property
    def name(self) -> str:  # type: ignore[override]
        return "label" if self.gives else "unlabel"

    def judge(self, certificate: Certificate) -> str:
        names = {each.name for each in certificate.labels.all()}
        if (self.label in names) == self.gives:
            said = (
                _("It has the label already.") if self.gives else _("It does not have the label.")
            )
            raise Unchanged(said)
        if self.gives and len(names) >= labeling.MOST_LABELS:
            raise Conflict(
                _(
                    "%(domain)s has %(most_labels)s labels, which are the most. Remove one.",
                    domain=certificate.domain,
                    most_labels=labeling.MOST_LABELS,
                )
            )
        return _("It gets the label.") if self.gives else _("It loses the label.")

    def act(self, certificate: Certificate) -> None:
        with transaction.atomic():
            quotas.lock(certificate.owner_id)  # nobody else changes the labels meanwhile
            names = set(certificate.labels.values_list("name", flat=True))
            wanted = names | {self.label} if self.gives else names - {self.label}
            labeling.set_labels(certificate, wanted)


def action_of(
    name: str, *, reason: object = None, label: str = "", actor: str = "", ip: str | None = None
) -> BulkAction:
    """Return the action of this name. Raise Invalid for an unknown one or a wrong parameter."""
    kinds: dict[str, Callable[[], BulkAction]] = {
        "renew": Renew,
        "revoke": lambda: Revoke(reason or 0, actor, ip),
        "renewal_on": lambda: Renewal(True),
        "renewal_off": lambda: Renewal(False),
        "label": lambda: GiveLabel(labeling.label_of(label, "label")),
        "unlabel": lambda: GiveLabel(labeling.label_of(label, "label"), gives=False),
    }
    if name not in kinds:
        known = ", ".join(kinds)
        raise Invalid(
            _("There is no such action. Give one of %(known)s.", known=known), field="action"
        )
    return kinds[name]()


def chosen(rows: QuerySet[Certificate], ids: Sequence[int] | None = None) -> Sequence[Certificate]:
    """Return the certificates of a bulk action, of these ids or all of `rows`.

    Raise Invalid when there are none or too many, and NotFound for an id that is not in `rows`.
    """
    if ids is not None:
        rows = rows.filter(pk__in=ids)
    joined = rows.select_related("owner", "account", "credential__disablement", "current").defer(
        "current__chain_pem"
    )
    found = list(joined.prefetch_related(open_attempts(), "labels").order_by("pk")[: MOST + 1])
    if len(found) > MOST or len(ids or ()) > MOST:
        raise Invalid(
            _("A bulk action takes at most %(most)s certificates. Choose fewer.", most=MOST),
            field="ids",
        )
    if missing := set(ids or ()) - {each.pk for each in found}:
        raise NotFound(
            _("You have no certificate %(missing)s. Check the ids.", missing=min(missing)),
            field="ids",
        )
    if not found:
        raise Invalid(_("No certificate is chosen. Choose one or more."), field="ids")
    return found


def dry_run(action: BulkAction, certificates: Sequence[Certificate]) -> list[Result]:
    """Return what the action would do to each certificate. Nothing is done."""
    return [_tried(each, action.judge) for each in certificates]


def act(
    owner: User,
    action: BulkAction,
    choose: Callable[[], Sequence[Certificate]],
    idempotency: Idempotency | None,
) -> list[Result]:
    """Do the action with each certificate. A refused one stops no other.

    The same `idempotency` sent again returns the results of the first time. When that time was
    interrupted, the action runs again, and finds done what was done.
    """
    key = _key(owner, idempotency)
    if key and key.results is not None:
        return [Result(**each | {"what": restored(each["what"])}) for each in key.results]

    def do(certificate: Certificate) -> str:
        will = action.judge(certificate)
        certificate.__dict__.pop("open_issuances", None)  # it may be old
        action.act(certificate)
        return will

    with transaction.atomic() if action.is_one_transaction else nullcontext():
        results = [_tried(each, do) for each in choose()]
        if key:
            rows = [asdict(each) | {"what": stored(each.what)} for each in results]
            RequestKey.objects.filter(pk=key.pk).update(results=rows)
    return results


def _key(owner: User, idempotency: Idempotency | None) -> RequestKey | None:
    if not idempotency:
        return None
    key, _is_new = RequestKey.objects.get_or_create(
        owner=owner, key=idempotency.key, defaults={"digest": idempotency.digest}
    )
    if key.digest != idempotency.digest:
        raise IdempotencyConflict(
            _(
                "The Idempotency-Key %(key)s was used for another request. Choose a new one.",
                key=key.key,
            )
        )
    return key


def _tried(certificate: Certificate, do: Callable[[Certificate], str]) -> Result:
    try:
        outcome, what = DONE, do(certificate)
    except Unchanged as same:
        outcome, what = UNCHANGED, same.args[0]
    except ApiError as refusal:
        outcome, what = REFUSED, refusal.what
    return Result(certificate.pk, certificate.domain, outcome, what)
