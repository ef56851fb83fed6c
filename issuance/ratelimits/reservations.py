"""Reserve tokens of a CA's limits before an order, and wait if the CA would refuse it.

An attempt that is about to order has a Reservation. The Reservation has a ReservedToken for each
bucket that the order needs:

    waiting ──> sent ──> spent
    sent ──> waiting, when the CA refused the order or its response was lost

`reserve()` takes the token of the account, under the locks of the buckets. `sent` is written before
the order is sent. If the worker dies after that, the token of the account is spent, because the CA
may have counted the order. The tokens of the names are provisional while the state is `sent` or
`spent`. They are charged when the attempt ends and its CSR was sent.

Each change of a reservation locks the rows of its buckets, in the order of their ids.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from authorities import catalog
from authorities.errors import LIMIT_WAIT, RATE_LIMITED, Refused
from certctrl import clock, retention
from certctrl.statements import Parameter, select
from certctrl.turns import Trouble, Wait
from issuance.models import TOO_LONG, Issuance, LimitBucket, Reservation, ReservedToken
from issuance.ratelimits import charges, queue
from issuance.ratelimits.charges import Charge
from issuance.ratelimits.feedback import learn
from issuance.ratelimits.ledger import COUNTED_WHEN_ISSUED, Ledger
from issuance.ratelimits.messages import sentence

State = Reservation.State
IN_PLACE: Any = Issuance._meta.get_field("reservation")


# --- one attempt ---


def reserve(issuance: Issuance, needed: Mapping[int, int]) -> None:
    """Reserve the tokens of an order that is sent at once.

    Raise Wait until the slot, with a sentence that names the limit. Raise Refused `ca_limit_wait`
    if the slot is more than six hours away. Raise it also if the slot is more than twelve hours
    after the first request.
    """
    if not needed:
        return None
    with issuance.fence():
        reservation = _stored(issuance) or queue.place_of(issuance)
        if not reservation.pk:
            reservation.save(force_insert=True)
        ledger, costs = _locked(reservation, needed)
        if reservation.state == State.SENT:  # by a turn that died; the CA may have counted it
            ledger.end(costs, back=False)
        if reservation.state == State.SPENT:  # the attempt orders again
            reservation.asked_at = ledger.now
        if costs != needed:
            reservation.tokens.all().delete()
            note_tokens([(reservation, needed)])
        waits = queue.waiting_for(ledger).exclude(pk=reservation.pk)  # read when first needed
        lacked = queue.lacking(ledger, reservation, needed, waits)
        if not lacked:
            ledger.take(needed, reservation.owner_id)
            ledger.save()
            reservation.sent_at = ledger.now
            _become(reservation, State.SENT)
            if issuance.slot_at:
                issuance.write(slot_at=None)
            return queue.call_next(ledger, waits)
        ledger.save()
        bucket, at = queue.estimate(ledger, reservation, {pk: needed[pk] for pk in lacked})
        _become(reservation, State.WAITING, bucket)
        issuance.write(slot_at=at)
        if all(ledger.may_use(pk, cost, reservation.owner_id) for pk, cost in needed.items()):
            # The tokens are for others.
            queue.call_next(ledger, waits)
    raise _wait(issuance, bucket, reservation.asked_at, at)


def refuse_far_slot(issuance: Issuance, needed: Mapping[int, int]) -> None:
    """Raise Refused `ca_limit_wait` if the slot is more than six hours away.

    Call this before any other work for the order, because a person may ask for thousands. This
    takes no token, and no place in the queue.
    """
    costly = {pk: cost for pk, cost in needed.items() if cost}
    if not costly or _stored(issuance):
        return
    ledger = Ledger(costly, lock=False)
    bucket, at = queue.estimate(ledger, queue.place_of(issuance), costly)
    if at - ledger.now > TOO_LONG:
        raise _wait(issuance, bucket, ledger.now, at)


def _stored(issuance: Issuance) -> Reservation | None:
    """Return the reservation of the attempt, as it was read with the attempt's row.

    Only the attempt's own turn creates it.
    """
    return getattr(issuance, "reservation", None)


def note_tokens(places: Iterable[tuple[Reservation, Mapping[int, int]]]) -> None:
    """Store the buckets that each reservation needs, with the costs."""
    ReservedToken.objects.bulk_create(
        ReservedToken(reservation=each, bucket_id=pk, cost=cost)
        for each, costs in places
        for pk, cost in costs.items()
    )


def _locked(reservation: Reservation, needed: Iterable[int] = ()) -> tuple[Ledger, dict[int, int]]:
    """Lock the buckets of a reservation, and those in `needed`. Return the costs too.

    The reservation itself changes only in transactions that changed the row of its attempt first.
    """
    costs = dict(reservation.tokens.values_list("bucket", "cost"))
    return Ledger({*costs, *needed}, but=reservation), costs


def _become(reservation: Reservation, state: str, lacks: LimitBucket | None = None) -> None:
    reservation.state, reservation.lacks = state, lacks
    reservation.save(force_update=True)


def record_order_result(
    issuance: Issuance, trouble: Trouble | None = None, counted: Iterable[Charge] = ()
) -> None:
    """Record the result of newOrder.

    A refused order costs no token. A Retry-After closes the bucket until then. An order that got no
    response is charged to the account, because the CA may have counted it. `counted` is empty for
    an order that the CA should not count.
    """
    said_no = isinstance(trouble, Refused) or (trouble is not None and trouble.code == RATE_LIMITED)
    reservation = _stored(issuance)
    closes = trouble is not None and trouble.code == RATE_LIMITED and trouble.retry_after
    if not reservation and not closes:
        return
    with issuance.fence():
        if reservation:
            ledger, costs = _locked(reservation)
            if reservation.state == State.SENT:
                ledger.end(costs, back=said_no)
                _become(reservation, State.WAITING if trouble else State.SPENT)
            elif not trouble:  # the order was sent without a token
                _leave(reservation)
            has_recovered = not trouble and ledger.note_success()
            ledger.save()
            if has_recovered or (trouble and not closes):
                queue.call_next(ledger)
        if trouble and closes:
            learn(issuance, trouble, counted)


def count_failed_validation(issuance: Issuance, name: str) -> None:
    """Charge a failed validation of `name`, because the CA did not find its record.

    After too many failures in an hour, the CA refuses orders for the name.
    """
    want = charges.failures_of(issuance.account, name)
    if want.kind not in catalog.limits_at(want.ca):
        return
    with transaction.atomic():
        [bucket] = charges.make([want]).values()
        ledger = Ledger([bucket])
        ledger.spend(bucket)
        ledger.save()


def step_aside(issuance: Issuance) -> None:
    """Give up the place in the queue of an attempt that cannot order now. It asks again later."""
    reservation = _stored(issuance)
    if reservation and reservation.state == State.WAITING:
        with issuance.fence(slot_at=None):
            end_reservation(issuance)


@select
def _reservations_of(issuance: Parameter) -> QuerySet[Reservation]:
    return Reservation.objects.filter(issuance=issuance)


def end_reservation(issuance: Issuance) -> None:
    """End the reservation of an attempt that ended. Call this in its last transaction.

    The names are charged if the CSR was sent. An order that may still be under way keeps the token
    of its account until `prune()` ends it.
    """
    if IN_PLACE.is_cached(issuance) and not _stored(issuance):
        return
    # Read again: a transaction that was rolled back leaves its values in the object.
    for reservation in _reservations_of(issuance=issuance.pk):  # at most one
        ledger, costs = _locked(reservation)
        if reservation.state == State.SENT:
            reservation.tokens.filter(bucket__kind__in=COUNTED_WHEN_ISSUED).delete()
        else:
            if reservation.state == State.SPENT and issuance.csr_sent_at:
                ledger.charge(costs)
            _leave(reservation)
        ledger.save()
        queue.call_next(ledger)


def _leave(reservation: Reservation) -> None:
    """Remove the reservation from the queue.

    The row is kept until `prune()`, because it says when its owner was last served.
    """
    reservation.tokens.all().delete()
    _become(reservation, State.SPENT)


def prune() -> None:
    """Delete the reservations of attempts that ended more than a day ago, and unused buckets.

    An order that was under way when its attempt ended has reached the CA after LEASE, or never. A
    bucket in which nothing has changed for twice its period is full.
    """
    now = clock.now()
    attempt = Issuance.objects.filter(pk=OuterRef("issuance"), wake_at=None)
    old = attempt.filter(ended_at__lt=now - timedelta(days=1))
    retention.delete(Reservation.objects.filter(Exists(old)))
    arrived = attempt.filter(ended_at__lt=now - timedelta(seconds=settings.LEASE))
    retention.delete(Reservation.objects.filter(Exists(arrived), state=State.SENT))
    full = LimitBucket.objects.filter(at__lt=now - 2 * catalog.longest_period())
    retention.delete(full.filter(~Exists(ReservedToken.objects.filter(bucket=OuterRef("pk")))))


# --- the wait ---


def _wait(
    issuance: Issuance, bucket: LimitBucket, asked_at: datetime, at: datetime
) -> Wait | Refused:
    now = clock.now()
    what = sentence(issuance, bucket, at)
    seconds = max(1.0, (at - now).total_seconds())
    if at - now > TOO_LONG or at - asked_at > 2 * TOO_LONG:
        return Refused(LIMIT_WAIT, what, retry_after=seconds)
    return Wait(seconds, what, imposed=True)
