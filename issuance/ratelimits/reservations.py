"""The ledger of the CAs' limits: reserve before ordering, wait where an order would be refused.

An attempt that is about to order has a Reservation, with a ReservedToken for each bucket that its order counts in:

    waiting ──> granted ──> sent ──> spent        granted and not used within 5 s: given back, waiting again

Tokens are taken by `reserve()` where nobody else waits for them, else by `grant()`, which knows whose turn it is.
`sent` is written before the order leaves: whoever dies after that has spent the token, since nobody knows whether the
CA counted. A slot that was not used at once is taken anew, so that an hour without any worker ends in no burst.

Every change of a reservation holds its buckets' rows locked, in the order of their keys.
"""

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
from issuance.ratelimits import charges, queue
from issuance.ratelimits.charges import buckets_of
from issuance.ratelimits.feedback import learn
from issuance.ratelimits.ledger import Ledger
from issuance.ratelimits.messages import sentence

Kind = LimitKind
State = Reservation.State

SLOT_LIFE = timedelta(seconds=5)  # a slot that is not used by then is given back
OWN_LOOK = 30.0  # seconds after its slot
COUNTS_CERTIFICATES = (Kind.DOMAIN, Kind.SET)  # given back when no certificate came of the order


# --- one attempt ---


def reserve(issuance: Issuance) -> None:
    """Have the order counted before it is sent; to be sent at once.

    Raises Wait until its slot, with the sentence that says which limit it waits for, and Refused `ca_limit_wait` when
    the slot is more than six hours away.
    """
    needed = buckets_of(issuance)
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


def refuse_far_slot(issuance: Issuance) -> None:
    """Before anything is done for the order: raises Refused `ca_limit_wait` where its slot is more than six hours away.
    Among fifty thousand certificates most come too early, many times. Takes nothing, and no place in the queue."""
    if Reservation.objects.filter(issuance=issuance).exists():
        return
    ledger = Ledger(needed := buckets_of(issuance), look=True)
    costly = [pk for pk, cost in needed.items() if cost]
    if not costly:
        return
    ahead = queue.ahead_of(issuance, costly)
    slots = {pk: ledger.slot(pk, 1, ahead.get(pk, 0)) for pk in costly}
    last = max(slots, key=lambda pk: slots[pk])
    if slots[last] - ledger.now > TOO_LONG:
        raise _wait(issuance, ledger.rows[last], ledger.now, slots[last])


def wait_while_busy(issuance: Issuance) -> None:
    """For an order with `replaces`, which is counted nowhere: raises as `reserve` does while the CA asks everybody to
    come back later."""
    busy = charges.busy(issuance.account)
    rows = LimitBucket.objects.filter(
        ca=catalog.directory_of(issuance.account), kind=busy.kind, subject=busy.subject
    )
    bucket, now = rows.first(), clock.now()
    at = bucket.at if bucket and bucket.at > now else None
    if at != issuance.slot_at:
        issuance.write(slot_at=at)
    if bucket and at:
        raise _wait(issuance, bucket, now, at)


def _reservation_of(issuance: Issuance, needed: dict[int, int]) -> Reservation:
    found = Reservation.objects.filter(issuance=issuance).first()
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


def _note_tokens(reservation: Reservation, needed: dict[int, int]) -> None:
    ReservedToken.objects.bulk_create(
        [
            ReservedToken(reservation=reservation, bucket_id=pk, cost=cost)
            for pk, cost in needed.items()
        ]
    )


def _may_send(ledger: Ledger, reservation: Reservation, needed: dict[int, int]) -> bool:
    """Use the slot that was granted, or take one where nobody else waits; written as sent when it is ours."""
    now = ledger.now
    if reservation.state == State.GRANTED:
        is_fresh = reservation.granted_at and now - SLOT_LIFE < reservation.granted_at <= now + SKEW
        if is_fresh and ledger.has_tokens({pk: 0 for pk, cost in needed.items() if not cost}):
            return _become(reservation, State.SENT, sent_at=now)
        _end_slot(ledger, reservation, back=True)
    elif reservation.state == State.SENT:  # by a turn that died: the CA may have counted it
        _end_slot(ledger, reservation, back=False)
    if reservation.state == State.SPENT:  # it orders again
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
    """A slot that is granted or sent is over: its tokens are given back, or spent."""
    ledger.end(dict(reservation.tokens.values_list("bucket", "cost")), back=back)
    _become(reservation, State.WAITING if back else State.SPENT)


def record_order_result(
    issuance: Issuance, trouble: Trouble | None = None, *, replaces: str = ""
) -> None:
    """newOrder ended. A CA that said no has counted nothing, and learns us its moment when it named one; whether it
    counted an order that got no answer nobody knows: it is spent."""
    said_no = isinstance(trouble, Refused) or (trouble is not None and trouble.code == RATE_LIMITED)
    with issuance.fence():
        reservation = Reservation.objects.filter(issuance=issuance).first()
        if reservation:
            ledger = Ledger(reservation.tokens.values_list("bucket", flat=True))
            reservation.refresh_from_db()
            if reservation.state == State.SENT:
                _end_slot(ledger, reservation, back=said_no)
            elif not trouble:  # it was ordered without a slot after all
                _leave(reservation)
            ledger.save()
        if trouble and trouble.code == RATE_LIMITED and trouble.retry_after:
            learn(issuance, trouble, replaces)


def count_failed_validation(issuance: Issuance, name: str) -> None:
    """The CA did not find a name's record: it refuses orders for the name after so many in an hour."""
    directory = catalog.directory_of(issuance.account)
    limit = catalog.limits_at(directory).get(Kind.FAILURES)
    if not limit:
        return
    want = charges.failures(issuance.account, name)
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
    """The attempt ended, in whatever way; inside its last transaction. Certificates are counted when they are issued:
    what never sent its CSR gives those tokens back. A call that may still be under way keeps its own until `grant()`
    ends it."""
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
    """It waits for nothing more; the row stays a while, to tell when its owner was served last."""
    reservation.tokens.all().delete()
    _become(reservation, State.SPENT)


def prune() -> None:
    """Forget the reservations of attempts that ended a day ago."""
    old = clock.now() - timedelta(days=1)
    Reservation.objects.filter(issuance__wake_at=None, issuance__ended_at__lt=old).delete()


# --- the sentence ---


def _wait(
    issuance: Issuance, bucket: LimitBucket, asked_at: datetime, at: datetime
) -> Wait | Refused:
    now = clock.now()
    what, seconds = sentence(issuance, bucket, at), max(1.0, (at - now).total_seconds())
    if at - now > TOO_LONG or at - asked_at > 2 * TOO_LONG:
        return Refused(LIMIT_WAIT, what, retry_after=seconds)
    # The sweep wakes it when its slot is there; of its own it only wakes in case nobody did.
    return Wait(min(seconds + OWN_LOOK, TOO_LONG.total_seconds()), what, asked=True)


# --- everybody's turn ---


def grant() -> list[int]:
    """Give out the slots that there are, and end those that nobody used; the sweep calls it each second. Answers the
    attempts whose turn has come."""
    now = clock.now()
    if not Reservation.objects.exclude(state=State.SPENT).exists():
        return []
    _end_unused(now)
    if issuance_ids := queue.grant():
        queue.wake(issuance_ids, now)
    return issuance_ids


def _end_unused(now: datetime) -> None:
    """Slots that were granted and not used are given back, and orders whose worker died are spent: the CA may have
    counted them. One transaction for all."""
    # A moment in the future was written by a clock that was ahead: nobody knows how long ago.
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
        )  # as they are under the locks
        for pk, state in states.items():
            ledger.end(needed.get(pk, {}), back=state == State.GRANTED)
        ledger.save()
        ended = Reservation.objects.filter(pk__in=states)
        ended.filter(state=State.GRANTED).update(state=State.WAITING)
        ended.filter(state=State.SENT).update(state=State.SPENT)
        # Nobody comes back for those whose attempt ended meanwhile.
        gone = ended.filter(issuance__wake_at=None)
        ReservedToken.objects.filter(reservation__in=gone).delete()
        gone.update(state=State.SPENT)
