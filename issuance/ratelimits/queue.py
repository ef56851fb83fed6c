"""Decide which reservation gets the next token of a bucket, and wake its attempt.

Renewals go before new orders. The soonest expiry goes first. Among equals each owner gets one token
in rotation. So an owner with 500 orders does not hold up an owner with 10.

An attempt wakes by itself at its slot. The slot is an estimate. So each order that is sent, refused
or ended also wakes those that are next in its buckets, at the time of the next token.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from django.db.models import Count, F, Max, Q, QuerySet, Value
from django.db.models.functions import Least

from authorities.catalog import LimitKind
from issuance.models import Issuance, LimitBucket, Reservation, ReservedToken
from issuance.ratelimits.ledger import ENOUGH, Ledger

NOBODY = 0  # an owner who has no provisional tokens
NEVER = datetime.min.replace(tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)


def waiting_for(ledger: Ledger) -> QuerySet[Reservation]:
    """Return the reservations that wait for a bucket of the ledger."""
    waits = Reservation.objects.filter(state=Reservation.State.WAITING, lacks__in=ledger.rows)
    # An attempt that waits after a trouble still has the trouble. A token does not wake it earlier.
    return waits.exclude(issuance__stumbles__gt=0, issuance__wake_at__gt=ledger.now)


def lacking(
    ledger: Ledger,
    reservation: Reservation,
    costs: Mapping[int, int],
    waits: Iterable[Reservation],
) -> list[int]:
    """Return the buckets that the order may not use now.

    In each bucket it needs a token for each of the `waits` that goes before it, and one more.
    """
    lacked = [pk for pk, cost in costs.items() if not ledger.may_use(pk, cost)]
    if lacked:
        return lacked
    for pk, rows in by_bucket(waits).items():
        before = ranked(ledger, pk, [*rows, reservation]).index(reservation)
        if costs.get(pk) and ledger.level(pk) < before + ENOUGH:
            lacked.append(pk)
    return lacked


def ranked(ledger: Ledger, pk: int, rows: Sequence[Reservation]) -> list[Reservation]:
    """Sort those that wait for a bucket. An owner without a token there holds up no other owner."""
    return sorted(in_rotation(rows), key=lambda each: ledger.level(pk, each.owner_id) < ENOUGH)


def call_next(ledger: Ledger, waits: Iterable[Reservation] | None = None) -> None:
    """Wake the attempts that are next in each bucket, at the time when it has a token for them.

    `waits` are the reservations that wait for the buckets, if they were read before.
    """
    for pk, rows in by_bucket(waiting_for(ledger) if waits is None else waits).items():
        called: dict[datetime, list[int]] = defaultdict(list)
        for place, each in enumerate(ranked(ledger, pk, rows)[: _room(ledger, pk)]):
            called[ledger.slot(pk, 1, place, each.owner_id)].append(each.issuance_id)
        for at, ids in called.items():
            sleeping = Issuance.objects.open().filter(pk__in=ids, holder="", wake_at__gt=at)
            sleeping.update(wake_at=Least(F("wake_at"), Value(at)), queued_at=None)


def _room(ledger: Ledger, pk: int) -> int | None:
    """Return how many reservations are woken for the bucket; None for all of them."""
    row = ledger.rows[pk]
    if row.kind == LimitKind.BUSY:
        return 1 if ledger.is_in_trouble(pk) else None
    level = ledger.level(pk, NOBODY)
    return max(1, math.floor(level)) if level < math.inf else None


def by_bucket(waits: Iterable[Reservation]) -> dict[int, list[Reservation]]:
    found: dict[int, list[Reservation]] = defaultdict(list)
    for each in waits:
        if each.lacks_id:
            found[each.lacks_id].append(each)
    return found


def estimate(
    ledger: Ledger, reservation: Reservation, costs: Mapping[int, int]
) -> tuple[LimitBucket, datetime]:
    """Return the bucket that the reservation waits for longest, and its slot there."""
    earlier = Q(reservation__asked_at=reservation.asked_at, reservation__lt=reservation.pk)
    ahead = (
        Q(reservation__is_renewal=True)
        | Q(reservation__asked_at__lt=reservation.asked_at)
        | earlier
    )
    if reservation.is_renewal:
        ahead = Q(reservation__is_renewal=True, reservation__expires_at__lt=reservation.expires_at)
    others = waits_of(costs).exclude(reservation=reservation).filter(ahead)
    before = dict(others.values_list("bucket").annotate(Count("pk")))
    slots = {pk: ledger.slot(pk, cost, before.get(pk, 0)) for pk, cost in costs.items()}
    last = max(slots, key=lambda pk: (slots[pk], before.get(pk, 0)))
    return ledger.rows[last], slots[last]


def waits_of(buckets: Iterable[int]) -> QuerySet[ReservedToken]:
    """Return the tokens of these buckets that reservations wait for."""
    return ReservedToken.objects.filter(
        bucket__in=list(buckets), cost__gt=0, reservation__state=Reservation.State.WAITING
    )


def ahead_of(issuance: Issuance, buckets: Iterable[int]) -> dict[int, int]:
    """Return how many reservations in each bucket's queue would go before a new one.

    The new one would be for this attempt, at this time. The keys are the ids of the buckets.
    """
    waits = waits_of(buckets)
    certificate = issuance.certificate
    if certificate.current_id is not None:
        waits = waits.filter(
            reservation__is_renewal=True, reservation__expires_at__lt=certificate.expires_at
        )
    return dict(waits.values_list("bucket").annotate(Count("pk")))


def in_rotation(chosen: Sequence[Reservation]) -> list[Reservation]:
    """Sort reservations by who gets the next token.

    Renewals come first, by soonest expiry, then new orders. Among equals the owners are served in
    rotation. The owner who was served longest ago is first.
    """
    served = last_served(chosen)
    seen: defaultdict[tuple[int, bool], int] = defaultdict(int)
    places = {}
    for each in sorted(chosen, key=lambda each: (each.expires_at or LAST, each.asked_at, each.pk)):
        places[each.pk] = seen[each.owner_id, each.is_renewal]
        seen[each.owner_id, each.is_renewal] += 1

    def rank(each: Reservation) -> tuple[bool, datetime, int, datetime, datetime, int]:
        last = served.get(each.owner_id, NEVER)
        return (
            not each.is_renewal,
            each.expires_at or LAST,
            places[each.pk],
            last,
            each.asked_at,
            each.pk,
        )

    return sorted(chosen, key=rank)


def last_served(chosen: Sequence[Reservation]) -> dict[int, datetime]:
    """Return when an order of each owner was last sent, by owner id.

    One owner needs no rotation, and nothing is asked.
    """
    owners = {each.owner_id for each in chosen}
    if len(owners) < 2:
        return {}
    served = Reservation.objects.filter(owner__in=owners, sent_at__isnull=False)
    return dict(served.values_list("owner").annotate(Max("sent_at")))
