"""Decide which reservation gets the next token of a bucket, and wake its attempt.

Renewals go before new orders. The soonest expiry goes first. Among equals each owner gets one token
in rotation. So an owner with 500 orders does not hold up an owner with 10.

An attempt wakes by itself at its slot. The slot is an estimate. So each order that is sent, refused
or ended also wakes those that are next in its buckets, at the time of the next token.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from django.db.models import Count, F, Max, Q, QuerySet, Value
from django.db.models.functions import Least

from certctrl import clock
from issuance.models import Issuance, LimitBucket, Reservation, ReservedToken
from issuance.ratelimits.ledger import Ledger

NEVER = datetime.min.replace(tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)


def place_of(issuance: Issuance) -> Reservation:
    """Return the place of an attempt in a queue, as a new reservation that is not stored."""
    certificate = issuance.certificate
    return Reservation(
        issuance=issuance,
        owner_id=certificate.owner_id,
        is_renewal=certificate.current_id is not None,
        expires_at=certificate.expires_at,
        asked_at=clock.now(),
    )


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
    owner = reservation.owner_id
    if closed := [pk for pk, cost in costs.items() if not ledger.may_use(pk, cost, owner)]:
        return closed
    before = {
        pk: ranked(ledger, pk, [*rows, reservation]).index(reservation)
        for pk, rows in by_bucket(waits).items()
        if costs.get(pk)
    }
    return [pk for pk, count in before.items() if not ledger.may_use(pk, 1, owner, count)]


def ranked(ledger: Ledger, pk: int, rows: Sequence[Reservation]) -> list[Reservation]:
    """Sort those that wait for a bucket. An owner without a token there holds up no other owner."""
    return sorted(in_rotation(rows), key=lambda each: not ledger.may_use(pk, 1, each.owner_id))


def call_next(ledger: Ledger, waits: Iterable[Reservation] | None = None) -> None:
    """Wake the attempts that are next in each bucket, at the time when it has a token for them.

    `waits` are the reservations that wait for the buckets, if they were read before.
    """
    for pk, rows in by_bucket(waiting_for(ledger) if waits is None else waits).items():
        called: dict[datetime, list[int]] = defaultdict(list)
        for place, each in enumerate(ranked(ledger, pk, rows)[: _room(ledger, pk)]):
            called[ledger.slot(pk, 1, each.owner_id, place)].append(each.issuance_id)
        for at, ids in called.items():
            sleeping = Issuance.objects.open().filter(pk__in=ids, holder="", wake_at__gt=at)
            sleeping.update(wake_at=Least(F("wake_at"), Value(at)), queued_at=None)


def _room(ledger: Ledger, pk: int) -> int | None:
    """Return how many reservations are woken for the bucket; None for all of them."""
    if ledger.is_in_trouble(pk):
        return 1
    level = ledger.level(pk)
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
    is_renewal, asked_at = reservation.is_renewal, reservation.asked_at
    sooner = Q(reservation__is_renewal=True)
    if is_renewal:
        sooner &= Q(reservation__expires_at__lt=reservation.expires_at)
    earlier = Q(reservation__asked_at__lt=asked_at)
    if reservation.pk:
        earlier |= Q(reservation__asked_at=asked_at, reservation__lt=reservation.pk)
    equal = Q(reservation__is_renewal=is_renewal, reservation__expires_at=reservation.expires_at)
    ahead = waits().filter(sooner | equal & earlier, bucket__in=costs)
    before = Counter(dict(ahead.values_list("bucket").annotate(Count("pk"))))
    owner = reservation.owner_id
    slots = {pk: ledger.slot(pk, cost, owner, before[pk]) for pk, cost in costs.items()}
    last = max(slots, key=lambda pk: (slots[pk], before[pk]))
    return ledger.rows[last], slots[last]


def waits() -> QuerySet[ReservedToken]:
    """Return the tokens that reservations wait for."""
    return ReservedToken.objects.filter(cost__gt=0, reservation__state=Reservation.State.WAITING)


def in_rotation(chosen: Sequence[Reservation]) -> list[Reservation]:
    """Sort reservations by who gets the next token.

    Renewals come first, by soonest expiry, then new orders. Among equals the owners are served in
    rotation. The owner who was served longest ago is first.
    """
    owners = {each.owner_id for each in chosen}
    served: dict[int, datetime] = {}  # when an order of each owner was last sent
    if len(owners) > 1:
        sent = Reservation.objects.filter(owner__in=owners, sent_at__isnull=False)
        served = dict(sent.values_list("owner").annotate(Max("sent_at")))
    seen: Counter[tuple[int, bool]] = Counter()

    def rank(each: Reservation) -> tuple[bool, datetime, int, datetime]:
        """Return the rank of the next one by age. Each is asked once, in that order."""
        key = each.owner_id, each.is_renewal
        seen[key] += 1
        last = served.get(each.owner_id, NEVER)
        return not each.is_renewal, each.expires_at or LAST, seen[key], last

    by_age = sorted(chosen, key=lambda each: (each.expires_at or LAST, each.asked_at, each.pk or 0))
    return sorted(by_age, key=rank)
