"""Correct times that were stored while the wall clock was ahead.

Such a time would hold its row up until the clock reaches it again. Two kinds are corrected. The
time of an event in the past cannot be in the future. A planned time cannot be later than its own
rule allows. Two machines may each be wrong by a minute or two. So nothing is corrected for times
up to AHEAD in the future, which pass by themselves soon enough.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.conf import settings
from django.core.cache import cache
from django.db.models import F, Q, QuerySet, Value
from django.db.models.functions import Concat

from certctrl.outgoing import MAX_WAIT
from certctrl.turns import A_DAY, SKEW, SWEPT
from dnsproviders import records
from dnsproviders.models import ApiBucket, TxtRecord
from issuance import workflow
from issuance.beat.due import WITH_TURNS
from issuance.models import (
    PLANNED_LATE,
    TOO_LONG,
    Authorization,
    Certificate,
    CertificateVersion,
    Deployment,
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
# A credential may wait a day for its records. An attempt whose CSR was sent waits a day for the CA.
UP_TO_A_DAY = (Issuance.State.PRESENTED, Issuance.State.VALIDATED, Issuance.State.FINALIZED)
LONGEST_CLOSED = timedelta(seconds=MAX_WAIT)


def put_right(now: datetime) -> None:
    """Correct times when the last sweep ended in the future. Every sweep calls this."""
    try:
        last: Any = cache.get(SWEPT)
    except Exception:  # the cache is away; the end of the sweep raises the same error
        return
    if last is not None and last > (now + AHEAD).timestamp():
        logger.warning("clock.was_ahead", seconds=round(last - now.timestamp()))
        correct(now, stepped=True)


def correct(now: datetime, *, stepped: bool = False) -> None:
    """Correct times that a correct clock cannot have written.

    The task `prune` calls this too, each hour and when beat starts. The cache may lose the time of
    the last sweep. Then only rows are corrected that may be held up, and they are found by index.

    With `stepped` the clock was ahead until a moment ago. Then a pause that ends later than now may
    be wrong too. It ends now, which does no harm, because each step checks first. Whole tables are
    read.
    """
    parts: tuple[Callable[[datetime, bool], None], ...] = (
        _turns,
        _attempts,
        _records,
        _limits,
        _certificates,
        _deployments,
        _told,
    )
    for part in parts:
        try:
            part(now, stepped)
        except Exception:  # one table must not keep the others from being corrected
            logger.exception("clock.not_corrected", what=part.__name__)


def _not_ahead(rows: QuerySet[Any], now: datetime, *moments: str) -> None:
    """Set columns with the time of a past event to `now` where they are later."""
    for moment in moments:
        rows.filter(**{f"{moment}__gt": now + AHEAD}).update(**{moment: now})


def _turns(now: datetime, stepped: bool) -> None:
    lease = timedelta(seconds=settings.LEASE)
    for model in WITH_TURNS:
        rows = model._base_manager.all()
        held = rows.exclude(holder="")
        held.filter(wake_at__gt=now + lease + AHEAD).update(wake_at=now + lease)
        # Other servers may ask for a pause of a week (Retry-After). An attempt ends in that case.
        longest = A_DAY if model in (Issuance, TxtRecord) else LONGEST_CLOSED
        # Nothing waits for a renewal window that is asked for some days late.
        pause = timedelta(0) if stepped and model is not RenewalInfo else longest
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
    records.correct(now, AHEAD)
    if stepped:  # a pause of SKEW, because the API's own count is not known
        ApiBucket.objects.filter(full_at__gt=now + AHEAD).update(full_at=now + SKEW)


def _limits(now: datetime, stepped: bool) -> None:
    """Correct buckets and reservations.

    A bucket that opens too early costs a refused order. The CA does not count that order.
    """
    closed = timedelta(0) if stepped else LONGEST_CLOSED
    LimitBucket.objects.filter(at__gt=now + closed + AHEAD).update(at=now)
    _not_ahead(Reservation.objects.filter(state=Reservation.State.WAITING), now, "asked_at")
    if stepped:
        _not_ahead(Reservation.objects.all(), now, "sent_at")


def _certificates(now: datetime, stepped: bool) -> None:
    # A wait for a rate limit is no failure. It moves `failing_since` by its own length at most.
    wait = timedelta(0) if stepped else LONGEST_CLOSED
    failing = Certificate.objects.filter(retired_at=None, failures__gt=0)
    failing.filter(failing_since__gt=now + wait + AHEAD).update(failing_since=now)
    # A certificate that seemed due may be held back by a rate limit.
    Certificate.objects.filter(lacks__isnull=False, renew_at__gt=now + AHEAD).update(lacks=None)
    planned = Certificate.objects.filter(renew_at__gt=now + AHEAD, lacks=None)
    # No rule plans a renewal after the expiry. Before the first version, none plans it later than
    # in a week.
    after_the_end = Q(expires_at__isnull=False, renew_at__gt=now + 2 * A_DAY)
    never_issued = Q(expires_at=None, renew_at__gt=now + LONGEST_CLOSED + A_DAY)
    late = planned.filter(PLANNED_LATE).filter(after_the_end | never_issued)
    late.update(renew_at=now)
    if stepped:
        planned.filter(failures__gt=0).update(renew_at=now)
        _try_what_was_given_up(now)
        _renew_what_is_not_valid_yet(now)
        _poll_what_seemed_over(now)
        _not_ahead(Certificate.objects.all(), now, "proved_at")
        _not_ahead(Issuance.objects.all(), now, "ended_at")
        for rows in (Drill.objects, Certificate.objects, CertificateVersion.objects):
            _not_ahead(rows.all(), now, "created_at")


def _deployments(now: datetime, stepped: bool) -> None:
    if not stepped:
        return
    rows = Deployment.objects.filter(certificate__retired_at=None)
    _not_ahead(rows, now, "wanted_at", "fetched_at", "installed_at", "served_at", "failed_at")
    # A look that comes too early sets the right time.
    rows.filter(wake_at__gt=now).update(wake_at=now)


def _try_what_was_given_up(now: datetime) -> None:
    """Try first issuances again that were given up too early.

    A first issuance is tried for a week. With the wrong clock that week seemed to be over.
    """
    ended = Issuance.objects.filter(state=Issuance.State.FAILED, ended_at__gt=now + AHEAD)
    given_up = ended.exclude(failure=Issuance.Failure.PERMANENT).values("certificate")
    idle = Certificate.objects.filter(pk__in=given_up, renew_at=None, current=None, retired_at=None)
    idle.exclude(pk__in=Issuance.objects.open().values("certificate")).update(renew_at=now)


def _poll_what_seemed_over(now: datetime) -> None:
    """Poll the renewal windows again of versions that only seemed to have expired."""
    used = Certificate.objects.filter(retired_at=None, expires_at__gt=now)
    RenewalInfo.objects.filter(wake_at=None, version__in=used.values("current")).update(wake_at=now)


def _renew_what_is_not_valid_yet(now: datetime) -> None:
    """Renew certificates that a private CA signed while the clock was ahead.

    Clients refuse such a certificate until its `not_before`.
    """
    signed = Certificate.objects.filter(
        retired_at=None, auto_renew=True, current__not_before__gt=now + AHEAD
    )
    able = signed.filter(account__private_ca__not_before__lte=now, renew_at__isnull=False)
    able.update(renew_at=now)


def _told(now: datetime, stepped: bool) -> None:
    _not_ahead(Delivery.objects.all(), now, "begun_at")  # by an index of its own
    if stepped:  # a warning that the wrong date raised too early must be raised again when due
        warned = Notice.objects.filter(kind=Notice.Kind.EXPIRING, raised_at__gt=now + AHEAD)
        warned.update(dedupe_key=Concat(F("dedupe_key"), Value(f":ahead:{now.timestamp():.0f}")))
        _not_ahead(Notice.objects.all(), now, "raised_at", "last_raised_at")
