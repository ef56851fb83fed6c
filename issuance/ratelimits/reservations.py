"""Reserve tokens of a CA's limits before an order, and wait if the CA would refuse it.

An attempt that is about to order has a Reservation. The Reservation has a ReservedToken for each
bucket that the order needs:

    waiting ──> granted ──> sent ──> spent
    granted ──> waiting, when the slot is not used within 5 s

`reserve()` takes the tokens if no other reservation waits for them. Otherwise `grant()` takes them
for the reservation that is next. `sent` is written before the order is sent. If the worker dies
after that, the token is spent, because the CA may have counted the order. A slot that is not used
at once is given back. So no burst of orders follows an hour without workers.

Each change of a reservation locks the rows of its buckets, in the order of their ids.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from authorities import catalog
from authorities.catalog import LimitKind
from authorities.errors import LIMIT_WAIT, RATE_LIMITED, Refused
from certctrl import clock
from certctrl.turns import SKEW, Trouble, Wait
from issuance.models import TOO_LONG, Issuance, LimitBucket, Reservation, ReservedToken
from issuance.ratelimits import queue
from issuance.ratelimits.charges import Charges, busy_of, failures_of
from issuance.ratelimits.feedback import learn
from issuance.ratelimits.ledger import Ledger
from issuance.ratelimits.messages import sentence

Kind = LimitKind
State = Reservation.State

SLOT_LIFE = timedelta(seconds=5)  # a slot that is not used within this time is given back
WAKES_AFTER = 30.0  # seconds after its slot, when the attempt wakes by itself
COUNTS_CERTIFICATES = (Kind.DOMAIN, Kind.SET)  # given back if the order led to no certificate


# --- one attempt ---


def reserve(issuance: Issuance, charges: Charges) -> None:
    """Reserve the tokens of an order that is sent at once.

    Raise Wait until the slot, with a sentence that names the limit. Raise Refused `ca_limit_wait`
    if the slot is more than six hours away. Raise it also if the slot is more than twelve hours
    after the first request.
    """
    needed = charges.costs
    if not needed:
        return
    with issuance.fence():
        reservation = _reservation_of(issuance, needed)
        before = set(reservation.tokens.values_list("bucket", flat=True))
        ledger = Ledger(before | set(needed))
        reservation.refresh_from_db()
        if _may_send(ledger, reservation, needed):
            ledger.save()
            if issuance.slot_at:
                issuance.write(slot_at=None)
            return
        ledger.save()
        bucket, at = queue.estimate(ledger, reservation)
        issuance.write(slot_at=at)
    raise _wait(issuance, bucket, reservation.asked_at, at)


def refuse_far_slot(issuance: Issuance, charges: Charges) -> None:
    """Raise Refused `ca_limit_wait` if the slot is more than six hours away.

    Call this before any other work for the order. Of fifty thousand certificates, most come too
    early many times. This takes no token, and no place in the queue.
    """
    costly = [pk for pk, cost in charges.costs.items() if cost]
    if not costly or _stored(issuance):
        return
    ledger = Ledger(costly, lock=False)
    ahead = queue.ahead_of(issuance, costly)
    slots = {pk: ledger.slot(pk, 1, ahead.get(pk, 0)) for pk in costly}
    last = max(slots, key=lambda pk: slots[pk])
    if slots[last] - ledger.now > TOO_LONG:
        raise _wait(issuance, ledger.rows[last], ledger.now, slots[last])


def wait_while_busy(issuance: Issuance) -> None:
    """Raise as `reserve` does, while the CA asks all orders of the account to wait.

    This is for an order with `replaces`, which is charged in no bucket.
    """
    busy = busy_of(issuance.account)
    rows = LimitBucket.objects.filter(
        ca=catalog.directory_of(issuance.account), kind=busy.kind, subject=busy.subject
    )
    bucket = rows.first()
    now = clock.now()
    at = bucket.at if bucket and bucket.at > now else None
    if at != issuance.slot_at:
        issuance.write(slot_at=at)
    if bucket and at:
        raise _wait(issuance, bucket, now, at)


def _stored(issuance: Issuance) -> Reservation | None:
    """Return the reservation of the attempt, as it was read with the attempt's row.

    Only the attempt's own turn creates it. Read it again under the locks, because `grant()` may
    have changed it since.
    """
    return getattr(issuance, "reservation", None)


def _reservation_of(issuance: Issuance, needed: Mapping[int, int]) -> Reservation:
    found = _stored(issuance)
    if found:
        return found
    certificate = issuance.certificate
    made = Reservation.objects.create(
        issuance=issuance,
        owner=certificate.owner,
        is_renewal=certificate.current_id is not None,
        expires_at=certificate.expires_at,
        asked_at=clock.now(),
    )
    _note_tokens(made, needed)
    return made


def _note_tokens(reservation: Reservation, needed: Mapping[int, int]) -> None:
    ReservedToken.objects.bulk_create(
        [
            ReservedToken(reservation=reservation, bucket_id=pk, cost=cost)
            for pk, cost in needed.items()
        ]
    )


def _may_send(ledger: Ledger, reservation: Reservation, needed: Mapping[int, int]) -> bool:
    """Use the granted slot, or take the tokens if no other reservation waits for them.

    Return whether the order may be sent. The reservation is then written as sent.
    """
    now = ledger.now
    if reservation.state == State.GRANTED:
        is_fresh = reservation.granted_at and now - SLOT_LIFE < reservation.granted_at <= now + SKEW
        if is_fresh and ledger.has_tokens({pk: 0 for pk, cost in needed.items() if not cost}):
            return _become(reservation, State.SENT, sent_at=now)
        _end_slot(ledger, reservation, back=True)
    elif reservation.state == State.SENT:  # by a turn that died; the CA may have counted it
        _end_slot(ledger, reservation, back=False)
    if reservation.state == State.SPENT:  # the attempt orders again
        _become(reservation, State.WAITING, asked_at=now)
    costs = dict(reservation.tokens.values_list("bucket", "cost"))
    if costs != needed:
        reservation.tokens.all().delete()
        _note_tokens(reservation, needed)
    if not ledger.has_tokens(needed) or queue.others_wait(reservation, needed):
        return False
    ledger.take(needed)
    return _become(reservation, State.SENT, granted_at=now, sent_at=now)


def _become(reservation: Reservation, state: str, **fields: datetime) -> bool:
    for name, value in {"state": state, **fields}.items():
        setattr(reservation, name, value)
    reservation.save(update_fields=["state", *fields])
    return True


def _end_slot(ledger: Ledger, reservation: Reservation, *, back: bool) -> None:
    """End a slot that is granted or sent. Its tokens are returned if `back`, else spent."""
    ledger.end(dict(reservation.tokens.values_list("bucket", "cost")), back=back)
    _become(reservation, State.WAITING if back else State.SPENT)


def record_order_result(
    issuance: Issuance, trouble: Trouble | None = None, counted: Charges | None = None
) -> None:
    """Record the result of newOrder.

    A refused order costs no token. A Retry-After closes the bucket until then. An order that got no
    response is charged, because the CA may have counted it. `counted` is None for an order that the
    CA should not count.
    """
    said_no = isinstance(trouble, Refused) or (trouble is not None and trouble.code == RATE_LIMITED)
    reservation = _stored(issuance)
    closes = trouble is not None and trouble.code == RATE_LIMITED and trouble.retry_after
    if not reservation and not closes:
        return
    with issuance.fence():
        if reservation:
            ledger = Ledger(reservation.tokens.values_list("bucket", flat=True))
            reservation.refresh_from_db()
            if reservation.state == State.SENT:
                _end_slot(ledger, reservation, back=said_no)
            elif not trouble:  # the order was sent without a slot
                _leave(reservation)
            ledger.save()
        if trouble and closes:
            learn(issuance, trouble, counted)


def count_failed_validation(issuance: Issuance, name: str) -> None:
    """Charge a failed validation of `name`, because the CA did not find its record.

    After too many failures in an hour, the CA refuses orders for the name.
    """
    directory = catalog.directory_of(issuance.account)
    limit = catalog.limits_at(directory).get(Kind.FAILURES)
    if not limit:
        return
    want = failures_of(issuance.account, name)
    with transaction.atomic():
        bucket, _ = LimitBucket.objects.get_or_create(
            ca=directory,
            kind=want.kind,
            subject=want.subject,
            defaults={"label": want.label, "level": limit.capacity, "at": clock.now()},
        )
        ledger = Ledger([bucket.pk])
        ledger.spend(bucket.pk)
        ledger.save()


def release(issuance: Issuance) -> None:
    """End the reservation of an attempt that ended. Call this in its last transaction.

    CAs count certificates when they are issued. So an attempt that never sent its CSR gives back
    the tokens of these limits. An order that may still be under way keeps its tokens until
    `grant()` ends it.
    """
    reservation = Reservation.objects.filter(issuance=issuance).first()
    if not reservation:
        return
    ledger = Ledger(reservation.tokens.values_list("bucket", flat=True))
    reservation.refresh_from_db()
    tokens = dict(reservation.tokens.values_list("bucket", "cost"))
    if reservation.state == State.SENT:
        return
    if reservation.state == State.GRANTED:
        ledger.end(tokens, back=True)
    elif reservation.state == State.SPENT and not issuance.csr_sent_at:
        ledger.refund(
            {pk for pk, cost in tokens.items() if cost and ledger.kind(pk) in COUNTS_CERTIFICATES}
        )
    ledger.save()
    _leave(reservation)


def _leave(reservation: Reservation) -> None:
    """Remove the reservation from the queue.

    The row is kept until `prune()`, because it says when its owner was last served.
    """
    reservation.tokens.all().delete()
    _become(reservation, State.SPENT)


def prune() -> None:
    """Delete the reservations of attempts that ended more than a day ago."""
    old = clock.now() - timedelta(days=1)
    Reservation.objects.filter(issuance__wake_at=None, issuance__ended_at__lt=old).delete()


# --- the wait ---


def _wait(
    issuance: Issuance, bucket: LimitBucket, asked_at: datetime, at: datetime
) -> Wait | Refused:
    now = clock.now()
    what = sentence(issuance, bucket, at)
    seconds = max(1.0, (at - now).total_seconds())
    if at - now > TOO_LONG or at - asked_at > 2 * TOO_LONG:
        return Refused(LIMIT_WAIT, what, retry_after=seconds)
    # The sweep wakes the attempt at its slot. This later time only helps if the sweep did not.
    return Wait(min(seconds + WAKES_AFTER, TOO_LONG.total_seconds()), what, imposed=True)


# --- all reservations ---


def grant() -> list[int]:
    """Grant the free slots, and end the slots that were not used.

    Return the ids of the attempts that got a slot. The sweep calls this every second.
    """
    now = clock.now()
    if not Reservation.objects.exclude(state=State.SPENT).exists():
        return []
    _end_unused(now)
    if issuance_ids := queue.grant():
        queue.wake(issuance_ids, now)
    return issuance_ids


def _end_unused(now: datetime) -> None:
    """Give back unused slots, and spend the tokens of orders whose worker died.

    The CA may have counted these orders. One transaction ends all of them.
    """
    # A time in the future was written by a clock that was ahead. Its real age is unknown.
    lapsed = Q(granted_at__lt=now - SLOT_LIFE) | Q(granted_at__gt=now + SKEW)
    dead = Q(sent_at__lt=now - timedelta(seconds=settings.LEASE)) | Q(sent_at__gt=now + SKEW)
    over = Reservation.objects.filter(lapsed & Q(state=State.GRANTED) | dead & Q(state=State.SENT))
    ids = list(over.values_list("pk", flat=True)[: queue.MOST])
    if not ids:
        return
    with transaction.atomic():
        needed = queue.needs(ids)
        ledger = Ledger({bucket for costs in needed.values() for bucket in costs})
        states = dict(
            over.filter(pk__in=ids).values_list("pk", "state")
        )  # read again under the locks
        for pk, state in states.items():
            ledger.end(needed.get(pk, {}), back=state == State.GRANTED)
        ledger.save()
        ended = Reservation.objects.filter(pk__in=states)
        ended.filter(state=State.GRANTED).update(state=State.WAITING)
        ended.filter(state=State.SENT).update(state=State.SPENT)
        # An attempt that ended meanwhile does not use its reservation again.
        gone = ended.filter(issuance__wake_at=None)
        ReservedToken.objects.filter(reservation__in=gone).delete()
        gone.update(state=State.SPENT)
