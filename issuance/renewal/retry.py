"""Decide what a failed attempt means for its certificate.

The result is the class of the failure, and the time of the next attempt.
"""

from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from authorities.errors import LIMIT_WAIT, OF_A_LIMIT
from certctrl import clock
from certctrl.turns import Trouble
from issuance import models
from issuance.models import Certificate, Issuance
from issuance.renewal import schedule
from issuance.renewal.lifetime import GAINS_NOTHING

Failure = Issuance.Failure


class CountedFailure(NamedTuple):
    failure: str  # a `Failure`
    counts: bool  # as one of the certificate's failures in a row


def count_failure(
    issuance: Issuance, trouble: Trouble, asked_for: datetime | None
) -> CountedFailure:
    """Set when the certificate is tried again (`renew_at`), and return the CountedFailure.

    Call this in a transaction. `asked_for` is the time that the other side named. If a limit has
    room at that time, the certificate waits for it. This wait does not count as a failure. It also
    uses up none of the time in which a first issuance is tried. An attempt that ran out of time
    over short waits for a busy CA has failed.
    """
    certificate = Certificate.objects.select_for_update().get(pk=issuance.certificate_id)
    now = clock.now()
    retry_at = partial(
        schedule.retry_at,
        now,
        certificate.failures + 1,
        certificate.expires_at,
        first_tried_at=_tried_since(certificate),
        permanent=trouble.permanent and _needs_a_person(issuance, certificate),
        jitter=schedule.draw(),
    )
    by_table = retry_at()
    is_far = asked_for is not None and (
        trouble.code == LIMIT_WAIT or asked_for - now > models.TOO_LONG
    )
    limited = is_far and trouble.code in OF_A_LIMIT
    at = retry_at(asked_for=asked_for, limited=limited)
    if trouble.code == GAINS_NOTHING and certificate.expires_at:
        at = schedule.after_no_gain(now, certificate.expires_at)
    failure = class_of(trouble, asked_for, by_table)
    fields: dict[str, Any] = {
        "renew_at": at if certificate.is_wanted else None,
        "last_failure": failure,
        "updated_at": now,
    }
    since = certificate.failing_since
    if limited and at and asked_for and at >= asked_for:
        fields["failing_since"] = since and since + (at - now)
    else:
        fields["failing_since"] = since or now
    if not limited:
        fields |= {"failures": certificate.failures + 1, "proved_at": None}
    Certificate.objects.filter(pk=certificate.pk).update(**fields)
    return CountedFailure(failure, counts=not limited)


def _tried_since(certificate: Certificate) -> datetime:
    """Return the time of the first failure in a row.

    If a person asked again later, return that time.
    """
    since = certificate.failing_since or clock.now()
    by_hand = certificate.issuances.filter(reason=Issuance.Reason.MANUAL).order_by("-pk")
    asked = by_hand.values_list("created_at", flat=True).first()
    return max(since, asked) if asked else since


def note_proof(issuance: Issuance) -> None:
    """Store the time at which staging issued the certificate, and nothing else of it.

    The next scan orders at the certificate's own account. Call this in a transaction.
    """
    certificate = Certificate.objects.select_for_update().get(pk=issuance.certificate_id)
    now = clock.now()
    at = now if certificate.is_wanted else None
    Certificate.objects.filter(pk=certificate.pk).update(proved_at=now, renew_at=at, updated_at=now)


def class_of(trouble: Trouble, asked_for: datetime | None, by_table: datetime | None) -> str:
    """Return the `Failure` of the trouble.

    `by_table` is the time of the next attempt if the other side had named no time.
    """
    if trouble.permanent:
        return Failure.PERMANENT
    decides = asked_for and by_table and asked_for > by_table
    return (
        Failure.LIMITED
        if decides or trouble.code in OF_A_LIMIT | {"wait_too_long"}
        else Failure.TRANSIENT
    )


def _needs_a_person(issuance: Issuance, certificate: Certificate) -> bool:
    """Return whether the attempt ran at the certificate's own account.

    The own account may still issue after the fallback account or staging refused for good.
    """
    return issuance.account_id == certificate.account_id
