"""The condition of a certificate or of an attempt: a mark, its word, and a few words more."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import OuterRef, Prefetch, Subquery, prefetch_related_objects
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from certctrl import clock
from certctrl.sentences import part_of
from issuance import workflow
from issuance.models import Certificate, Issuance

STEPS = tuple(step.name for step in workflow.STEPS)
State = Issuance.State


@dataclass(frozen=True)
class Condition:
    """`kind` is the class of the mark's colour; `note` may be the words of another party."""

    kind: str
    mark: str
    word: str
    note: str = ""


def steps_done(issuance: Issuance) -> int:
    """Return how many of the six steps of an open attempt are done."""
    return [step.state for step in workflow.STEPS].index(issuance.state)


def note_attempts(certificates: Sequence[Certificate]) -> None:
    """Set the open attempt of each certificate, and of a failing one the last that failed.

    It takes one query, and a second one when a certificate fails. The attempts have only the
    columns that the condition shows.
    """
    opened = Issuance.objects.open().only("certificate", "state", "waits_for", "slot_at")
    prefetch_related_objects(certificates, Prefetch("issuances", opened, to_attr="open_issuances"))
    failing = {each.pk for each in certificates if each.failures}
    last_failed = _last_failed(failing) if failing else {}
    for each in certificates:
        each.last_failed = last_failed.get(each.pk)  # type: ignore[attr-defined]


def _last_failed(ids: set[int]) -> dict[int, Issuance]:
    failed = Issuance.objects.filter(certificate=OuterRef("pk"), state=State.FAILED)
    last = Subquery(failed.order_by("-pk").values("pk")[:1])
    rows = Issuance.objects.filter(pk__in=Certificate.objects.filter(pk__in=ids).values(last=last))
    shown = rows.only("certificate", "credential", "error_code", "error_what", "failure")
    return {each.certificate_id: each for each in shown}


def condition_of(certificate: Certificate) -> Condition:
    """Return the condition of a certificate that `note_attempts` has seen."""
    version = certificate.current
    if version and version.revoked_at:
        return Condition("plain", "void", _("revoked"))
    if open_one := Issuance.objects.open_of(certificate):
        return condition_of_open(open_one, is_first=not version)
    if certificate.failures:
        return _of_failing(certificate)
    if not version:
        return Condition("plain", "new", _("never issued"))
    if version.not_after <= clock.now():
        note = "" if certificate.auto_renew else _("renewal is off")
        return Condition("plain", "ended", _("expired"), note)
    if version.revoke_asked_at:
        return Condition("waits", "waits", _("waits for the revocation"), version.revoke_error)
    if not certificate.auto_renew:
        return Condition("plain", "off", _("active"), _("renewal is off"))
    return Condition("plain", "ok", _("active"))


def condition_of_open(issuance: Issuance, *, is_first: bool) -> Condition:
    done = steps_done(issuance)
    where = _("%(step)s, %(number)d of 6") % {"step": step_name(STEPS[done]), "number": done + 1}
    if issuance.waits_for or issuance.slot_at:
        return Condition("waits", "waits", _("waits"), issuance.waits_for or where)
    return Condition("goes", "goes", _("issuing") if is_first else _("renewing"), where)


def _of_failing(certificate: Certificate) -> Condition:
    failed: Issuance | None = getattr(certificate, "last_failed", None)
    what = failed.error_what if failed else ""
    is_permanent = failed and failed.failure == Issuance.Failure.PERMANENT
    if is_permanent or not certificate.renew_at:
        return Condition("you", "you", _("needs a person"), what)
    return Condition("again", "again", _("trying again"), what)


def condition_of_attempt(issuance: Issuance) -> Condition:
    if issuance.is_open:
        return condition_of_open(issuance, is_first=issuance.is_first)
    if issuance.state == State.ISSUED:
        return Condition("works", "works", _("issued"))
    if issuance.state == State.CANCELED:
        return Condition("plain", "void", _("canceled"), issuance.error_what)
    return Condition("fails", "fails", _("failed"), issuance.error_what)


def said(what: str) -> tuple[str, str]:
    """Return our sentence, and the words of another party at its end, if there are some."""
    shown, theirs = str(what), part_of(what, "said")
    ours = shown.removesuffix(theirs)
    return (ours, theirs) if theirs and ours != shown else (shown, "")


STEP_NAMES = (
    gettext_noop("order"),
    gettext_noop("present"),
    gettext_noop("propagate"),
    gettext_noop("validate"),
    gettext_noop("finalize"),
    gettext_noop("download"),
    gettext_noop("preflight"),
)


def step_name(step: str) -> str:
    return _(step) if step in STEP_NAMES else step
