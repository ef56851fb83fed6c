"""Decide which reservation gets the next slot of a CA's limits.

Renewals go before new orders. The soonest expiry goes first. Among equals each owner gets one slot
in rotation. So an owner with 500 orders does not hold up an owner with 10.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from django.db import transaction
from django.db.models import Count, Exists, F, Max, OuterRef, Q, QuerySet, Value, Window
from django.db.models.functions import Least, RowNumber

from certctrl import clock
from certctrl.turns import SKEW
from issuance.models import Issuance, LimitBucket, Reservation, ReservedToken
from issuance.ratelimits.ledger import Ledger

MOST = 1000  # reservations that one grant reads
FEW_UNUSED = 8
SECOND_SLOT = timedelta(seconds=15)  # others go first for this time after an unused slot
NEVER = datetime.min.replace(tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)


def waiting() -> QuerySet[Reservation]:
    return Reservation.objects.filter(state=Reservation.State.WAITING)


def others_wait(reservation: Reservation, needed: Iterable[int]) -> bool:
    """Return whether another reservation waits for one of these buckets.

    Then `grant()` gives out the tokens.
    """
    same = ReservedToken.objects.filter(
        bucket__in=list(needed), reservation__state=Reservation.State.WAITING
    )
    return same.exclude(reservation=reservation).exists()


def estimate(ledger: Ledger, reservation: Reservation) -> tuple[LimitBucket, datetime]:
    """Return the bucket that the reservation waits for longest, and its slot there."""
    costs = dict(reservation.tokens.values_list("bucket", "cost"))
    earlier = Q(reservation__asked_at=reservation.asked_at, reservation__lt=reservation.pk)
    ahead = (
        Q(reservation__is_renewal=True)
        | Q(reservation__asked_at__lt=reservation.asked_at)
        | earlier
    )
    if reservation.is_renewal:
        ahead = Q(reservation__is_renewal=True, reservation__expires_at__lt=reservation.expires_at)
    others = ReservedToken.objects.filter(
        bucket__in=costs, cost__gt=0, reservation__state=Reservation.State.WAITING
    )
    counted = (
        others.exclude(reservation=reservation)
        .filter(ahead)
        .values_list("bucket")
        .annotate(Count("pk"))
    )
    before = dict(counted)

    slots = {pk: ledger.slot(pk, cost, before.get(pk, 0)) for pk, cost in costs.items()}
    last = max(slots, key=lambda pk: (slots[pk], before.get(pk, 0)))
    return ledger.rows[last], slots[last]


def ahead_of(issuance: Issuance, buckets: Iterable[int]) -> dict[int, int]:
    """Return how many reservations in each bucket's queue would go before a new one.

    The new one would be for this attempt, at this time. The keys are the ids of the buckets.
    """
    waits = ReservedToken.objects.filter(
        bucket__in=buckets, cost__gt=0, reservation__state=Reservation.State.WAITING
    )
    certificate = issuance.certificate
    if certificate.current_id is not None:
        waits = waits.filter(
            reservation__is_renewal=True, reservation__expires_at__lt=certificate.expires_at
        )
    return dict(waits.values_list("bucket").annotate(Count("pk")))


def grant() -> list[int]:
    """Take tokens for the reservations that are next.

    Return the ids of their attempts.
    """
    room = unused_room(clock.now())
    chosen = servable() if room > 0 else []
    if not chosen:
        return []
    ids = [each.pk for each in chosen]
    with transaction.atomic():
        ledger = Ledger(
            ReservedToken.objects.filter(reservation__in=ids).values_list("bucket", flat=True)
        )
        needed = needs(ids)
        # Read the states again under the locks. A reservation may have been served, or may have
        # changed its buckets, before the locks.
        still = set(waiting().filter(pk__in=ids).values_list("pk", flat=True))
        granted: list[Reservation] = []
        for each in in_rotation([each for each in chosen if each.pk in still], last_served(chosen)):
            if len(granted) >= room:
                break
            costs = needed.get(each.pk, {})
            if costs and costs.keys() <= ledger.rows.keys() and ledger.has_tokens(costs):
                ledger.take(costs)
                granted.append(each)
        ledger.save()
        Reservation.objects.filter(pk__in=[each.pk for each in granted]).update(
            state=Reservation.State.GRANTED, granted_at=ledger.now
        )
    return [each.issuance_id for each in granted]


def unused_room(now: datetime) -> int:
    """Return how many more slots may be unused at the same time.

    The limit is a few, plus half of the slots that were used in the last 5 seconds. Workers could
    not use more slots than that. The extra slots would only lapse, and be granted again.
    """
    lately = now - timedelta(seconds=5)
    unused = Count("pk", filter=Q(state=Reservation.State.GRANTED))
    used = Count("pk", filter=Q(sent_at__gte=lately))
    recent = Reservation.objects.filter(granted_at__range=(lately, now + SKEW)).aggregate(
        unused=unused, used=used
    )
    return FEW_UNUSED + int(recent["used"]) // 2 - int(recent["unused"])


def servable() -> list[Reservation]:
    """Return the waiting reservations that a grant could serve now.

    Reservations that need an empty or closed bucket are left out. The owners are served in
    rotation.
    """
    asked = ReservedToken.objects.filter(reservation__state=Reservation.State.WAITING)
    ids = list(asked.values_list("bucket", flat=True).distinct())
    if not ids:
        return []
    ledger = Ledger(ids, lock=False)
    empty = [pk for pk in ledger.rows if not ledger.may_use(pk, 1)]
    closed = [pk for pk in empty if not ledger.may_use(pk, 0)]
    lacks = Q(bucket__in=empty, cost__gt=0) | Q(bucket__in=closed)
    blocked = ReservedToken.objects.filter(lacks, reservation=OuterRef("pk"))
    nth = Window(
        RowNumber(), partition_by=[F("owner"), F("is_renewal")], order_by=["expires_at", "asked_at"]
    )
    unused = Q(granted_at__gt=ledger.now - SECOND_SLOT, granted_at__lte=ledger.now + SKEW)
    # An attempt that waits after a trouble still has the trouble. A slot does not wake it earlier.
    stumbled = Q(issuance__stumbles__gt=0, issuance__wake_at__gt=ledger.now)
    rows = waiting().filter(
        ~Exists(blocked), ~unused, ~stumbled, issuance__wake_at__isnull=False, issuance__holder=""
    )
    return list(
        rows.annotate(nth=nth).order_by("-is_renewal", "expires_at", "nth", "asked_at")[:MOST]
    )


def needs(ids: Sequence[int]) -> Mapping[int, dict[int, int]]:
    """Return the buckets of each reservation, with the cost of each in tokens.

    The keys are the ids of the reservations, then the ids of the buckets.
    """
    found: defaultdict[int, dict[int, int]] = defaultdict(dict)
    tokens = ReservedToken.objects.filter(reservation__in=ids)
    for reservation, bucket, cost in tokens.values_list("reservation", "bucket", "cost"):
        found[reservation][bucket] = cost
    return found


def last_served(chosen: Sequence[Reservation]) -> dict[int, datetime]:
    """Return when each owner last got a slot, by owner id."""
    owners = {each.owner_id for each in chosen}
    served = Reservation.objects.filter(owner__in=owners, granted_at__isnull=False)
    return dict(served.values_list("owner").annotate(Max("granted_at")))


def in_rotation(chosen: Sequence[Reservation], served: Mapping[int, datetime]) -> list[Reservation]:
    """Sort reservations by who gets the next slot.

    Renewals come first, by soonest expiry, then new orders. Among equals the owners are served in
    rotation. The owner who was served longest ago is first.
    """
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


def wake(issuance_ids: Sequence[int], now: datetime) -> None:
    """Wake the attempts that have a slot.

    The new `wake_at` is in the past, so that the sweep sends their messages next.
    """
    idle = Issuance.objects.open().filter(
        pk__in=issuance_ids, holder="", state=Issuance.State.QUEUED
    )
    idle.update(wake_at=Least(F("wake_at"), Value(now - SKEW)), queued_at=None)
