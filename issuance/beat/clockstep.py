"""Moments that were stored while the wall clock was ahead, after it was put right.

Such a moment would hold its row up until the clock is there again. Two kinds are corrected. What already happened
cannot be in the future. What is still to come cannot be further away than its own rule allows. A clock that is a
little ahead is normal: two machines may each be wrong by a minute or two. Nothing is corrected for that, since such a
moment passes by itself soon enough.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.conf import settings
from django.core.cache import cache
from django.db.models import F, Q, QuerySet, Value
from django.db.models.functions import Concat

from authorities.models import AcmeAccount
from certctrl.outgoing import MAX_WAIT
from certctrl.turns import A_DAY, SWEPT, Turns
from dnsproviders.models import ApiBucket, TxtRecord
from issuance import workflow
from issuance.models import (
    TOO_LONG,
    Authorization,
    Certificate,
    CertificateVersion,
    Drill,
    Issuance,
    LimitBucket,
    RenewalInfo,
    Reservation,
)
from notices.models import Delivery, Notice

logger = structlog.get_logger()

AHEAD = timedelta(minutes=5)
LONGEST_SETTLE = timedelta(hours=1)
# A credential may wait a day for its records, and an attempt whose CSR was sent waits a day for the CA.
UP_TO_A_DAY = (Issuance.State.PRESENTED, Issuance.State.VALIDATED, Issuance.State.FINALIZED)
LONGEST_CLOSED = timedelta(seconds=MAX_WAIT)
WITH_TURNS: tuple[type[Turns], ...] = (
    Issuance,
    TxtRecord,
    AcmeAccount,
    CertificateVersion,
    RenewalInfo,
    Delivery,
)


def put_right(now: datetime) -> None:
    """Called by every sweep: correct what is too far ahead when the last sweep ended in the future."""
    try:
        last: Any = cache.get(SWEPT)
    except Exception:  # whatever the cache's client raises; the end of the sweep says so
        return
    if last is not None and last > (now + AHEAD).timestamp():
        logger.warning("clock.was_ahead", seconds=round(last - now.timestamp()))
        correct(now, stepped=True)


def correct(now: datetime, *, stepped: bool = False) -> None:
    """Correct moments that no clock which is right can have written. Called each hour and when beat starts, too, since
    the mark of the last sweep may be lost.

    `stepped`: the clock was ahead a moment ago, so pauses that end later than now are suspect as well. They end now,
    since each step looks first.
    """
    parts: tuple[Callable[[datetime, bool], None], ...] = (
        _turns,
        _attempts,
        _records,
        _limits,
        _certificates,
        _told,
    )
    for part in parts:
        try:
            part(now, stepped)
        except Exception:  # one table must not keep the others from being corrected
            logger.exception("clock.not_corrected", what=part.__name__)


def _not_ahead(rows: QuerySet[Any], now: datetime, *moments: str) -> None:
    """Moments of what has happened: none is later than now."""
    for moment in moments:
        rows.filter(**{f"{moment}__gt": now + AHEAD}).update(**{moment: now})


def _turns(now: datetime, stepped: bool) -> None:
    lease = timedelta(seconds=settings.LEASE)
    for model in WITH_TURNS:
        rows = model._base_manager.all()
        held = rows.exclude(holder="")
        held.filter(wake_at__gt=now + lease + AHEAD).update(wake_at=now + lease)
        # A renewal window that is asked for some hours later stops nothing.
        pause = timedelta(0) if stepped and model is not RenewalInfo else A_DAY
        rows.filter(holder="", wake_at__gt=now + pause + AHEAD).update(wake_at=now, queued_at=None)
        rows.filter(wake_at__isnull=False, queued_at__gt=now + AHEAD).update(queued_at=None)


def _attempts(now: datetime, stepped: bool) -> None:
    attempts = Issuance.objects.open()
    _not_ahead(attempts, now, "state_since", "preflighted_at")
    for step in workflow.STEPS:
        limit = A_DAY if step.state in UP_TO_A_DAY else step.limit
        late = attempts.filter(state=step.state, deadline_at__gt=now + limit + TOO_LONG + AHEAD)
        late.update(deadline_at=now + limit)
    pause = timedelta(0) if stepped else LONGEST_SETTLE
    attempts.filter(settles_at__gt=now + pause + AHEAD).update(settles_at=now)
    _not_ahead(Authorization.objects.filter(issuance__in=attempts), now, "answered_at", "seen_at")


def _records(now: datetime, stepped: bool) -> None:
    records = TxtRecord.objects.in_the_zone()
    _not_ahead(records, now, "intent_at", "presented_at")
    unsure = now + timedelta(seconds=settings.LEASE)
    records.filter(unsure_until__gt=unsure + AHEAD).update(unsure_until=unsure)
    if stepped:  # a minute's rest, since nobody knows what the API has counted
        ApiBucket.objects.filter(full_at__gt=now + AHEAD).update(full_at=now + AHEAD)


def _limits(now: datetime, stepped: bool) -> None:
    """A bucket that is open again too early costs a refused order, which the CA does not count."""
    closed = timedelta(0) if stepped else LONGEST_CLOSED
    LimitBucket.objects.filter(at__gt=now + closed + AHEAD).update(at=now)
    _not_ahead(Reservation.objects.all(), now, "asked_at")
    over = Reservation.objects.filter(
        state=Reservation.State.SPENT
    )  # `limits.grant` ends the others first
    _not_ahead(over, now, "granted_at", "sent_at")


def _certificates(now: datetime, stepped: bool) -> None:
    _not_ahead(Certificate.objects.all(), now, "proved_at")
    # A wait for a limit is not failing: it moves `failing_since`, at most by its own length.
    wait = timedelta(0) if stepped else LONGEST_CLOSED
    Certificate.objects.filter(failing_since__gt=now + wait + AHEAD).update(failing_since=now)
    planned = Certificate.objects.filter(renew_at__gt=now + AHEAD)
    # No rule plans a renewal after the end, or later than a week where nothing was issued yet.
    after_the_end = Q(renew_at__gt=F("expires_at")) & Q(renew_at__gt=now + 2 * A_DAY)
    never_issued = Q(expires_at=None, renew_at__gt=now + LONGEST_CLOSED + A_DAY)
    planned.filter(after_the_end | never_issued).update(renew_at=now)
    if stepped:
        planned.filter(failures__gt=0).update(renew_at=now)
        _try_what_was_given_up(now)
        _renew_what_is_not_valid_yet(now)
        _poll_what_seemed_over(now)
        _not_ahead(Issuance.objects.all(), now, "ended_at")
        for rows in (Drill.objects, Certificate.objects, CertificateVersion.objects):
            _not_ahead(rows.all(), now, "created_at")


def _try_what_was_given_up(now: datetime) -> None:
    """A first issuance is tried for a week, which seemed to be over."""
    ended = Issuance.objects.filter(state=Issuance.State.FAILED, ended_at__gt=now + AHEAD)
    given_up = ended.exclude(failure=Issuance.Failure.PERMANENT).values("certificate")
    idle = Certificate.objects.filter(pk__in=given_up, renew_at=None, current=None, retired_at=None)
    idle.exclude(pk__in=Issuance.objects.open().values("certificate")).update(renew_at=now)


def _poll_what_seemed_over(now: datetime) -> None:
    """The renewal windows of versions that seemed to have expired."""
    used = Certificate.objects.filter(retired_at=None, expires_at__gt=now)
    RenewalInfo.objects.filter(wake_at=None, version__in=used.values("current")).update(wake_at=now)


def _renew_what_is_not_valid_yet(now: datetime) -> None:
    """A private CA of this server signed it while the clock was ahead, and clients refuse it until then."""
    signed = Certificate.objects.filter(
        retired_at=None, auto_renew=True, current__not_before__gt=now + AHEAD
    )
    able = signed.filter(account__private_ca__not_before__lte=now, renew_at__isnull=False)
    able.update(renew_at=now)


def _told(now: datetime, stepped: bool) -> None:
    _not_ahead(Delivery.objects.all(), now, "begun_at")
    if stepped:  # a warning that was raised by the wrong date is raised again when it is due
        warned = Notice.objects.filter(kind=Notice.Kind.EXPIRING, raised_at__gt=now + AHEAD)
        warned.update(dedupe_key=Concat(F("dedupe_key"), Value(f":ahead:{now.timestamp():.0f}")))
        _not_ahead(Notice.objects.all(), now, "raised_at")
