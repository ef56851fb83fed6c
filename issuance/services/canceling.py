"""Cancel attempts, also while a worker holds them."""

from datetime import datetime

from django.db import transaction

from accounts import audit
from certctrl import clock
from certctrl.errors import ApiError, Conflict, TooLate
from certctrl.sentences import sentence as _
from certctrl.turns import A_DAY
from issuance import ratelimits
from issuance.challenges import registry
from issuance.models import Certificate, Issuance, IssuanceEvent


def cancel(certificate: Certificate) -> Issuance:
    """Cancel the open attempt of the certificate, also while a worker holds it, and return it.

    Raise TooLate once the CA signs, and Conflict when no attempt is open.
    """
    open_one = Issuance.objects.open_of(certificate)
    if not open_one:
        raise Conflict(
            _(
                "%(domain)s has no attempt in progress, so there is nothing to cancel.",
                domain=certificate.domain,
            )
        )
    with transaction.atomic():
        canceled = cancel_attempt(open_one)
        facts = {"domain": certificate.domain, "issue_history_id": canceled.pk}
        audit.note(
            certificate.owner,
            "certificate.issuance_canceled",
            f"certificate:{certificate.pk}",
            **facts,
        )
    return canceled


def cancel_attempt(issuance: Issuance) -> Issuance:
    """Cancel this attempt, also while a worker holds it, and return it.

    Its challenges are released when the lease of the interrupted turn ends. Until then a call of
    that turn may be under way. Raise TooLate once the CA signs, and Conflict when the attempt has
    ended.
    """
    now = clock.now()
    with transaction.atomic():
        held = (
            Issuance.objects.filter(pk=issuance.pk, state__in=Issuance.BEFORE_VALIDATED)
            .select_for_update()
            .first()
        )
        if not held:
            raise _not_canceled(issuance)
        released_at = held.wake_at if held.holder and held.wake_at else now
        taken = Issuance.objects.filter(pk=held.pk, state=held.state, holder=held.holder)
        if not taken.update(
            state=Issuance.State.CANCELED,
            state_since=now,
            ended_at=now,
            wake_at=None,
            holder="",
            queued_at=None,
            slot_at=None,
        ):
            raise Conflict(_("The attempt changed at the same moment. Try again."))
        ratelimits.end_reservation(held)
        registry.release(held, released_at)
        IssuanceEvent.objects.create(
            issuance=held,
            at=now,
            step="cancel",
            outcome=IssuanceEvent.Outcome.FAILED,
            what=_("canceled by a person"),
        )
        Certificate.objects.filter(pk=held.certificate_id).update(
            renew_at=_after_cancel(held.certificate)
        )
    held.refresh_from_db()
    return held


def _not_canceled(issuance: Issuance) -> ApiError:
    """Return the error for an attempt that cannot be canceled: the CA signs, or it has ended."""
    domain = issuance.certificate.domain
    if Issuance.objects.open().filter(pk=issuance.pk).exists():
        return TooLate(
            _(
                "It is too late to cancel, because the CA is signing the certificate of "
                "%(domain)s. Revoke it later.",
                domain=domain,
            )
        )
    return Conflict(
        _(
            "Attempt %(number)s of %(domain)s has ended, so it cannot be canceled.",
            number=issuance.number,
            domain=domain,
        )
    )


def _after_cancel(certificate: Certificate) -> datetime | None:
    return clock.now() + A_DAY if certificate.renews_itself else None
