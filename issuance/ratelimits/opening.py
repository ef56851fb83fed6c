"""Choose the due certificates whose attempts are opened. The others stay due.

An attempt is opened when each of its buckets will soon have a token for it. A certificate that
stays due is held back, and `Certificate.lacks` is the bucket that has no token for it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Count, Q

from issuance.models import Certificate, Issuance, Reservation
from issuance.ratelimits import queue
from issuance.ratelimits.charges import charges_at, of_order
from issuance.ratelimits.ledger import Ledger
from issuance.ratelimits.reservations import note_tokens

SOON = timedelta(hours=1)
Place = tuple[Reservation, Mapping[int, int]]  # with the cost in each bucket


class Room(Ledger):
    """The tokens that buckets will soon have for an owner, less those that attempts wait for.

    Attempts of other owners do not count, because they may never use their tokens.
    """

    def __init__(self, buckets: Iterable[int]) -> None:
        super().__init__(buckets, lock=False)
        waits = queue.waits().filter(bucket__in=self.rows)
        counted = waits.values_list("bucket", "reservation__owner").annotate(Count("pk"))
        for bucket, owner, count in counted:
            self.provisional[bucket, owner] += count

    def tokens(self, bucket: int, owner: int, most: int = 1) -> int:
        """Return for how many more orders the bucket soon has tokens, at most `most`."""
        soon = self.now + max(SOON, 2 * timedelta(seconds=settings.SCAN_EVERY))
        return sum(self.slot(bucket, 1, owner, ahead) <= soon for ahead in range(most))


def choose(attempts: Sequence[Issuance]) -> tuple[list[Place], dict[int, list[int]]]:
    """Return the places of the attempts to open, and the certificates that are held back.

    The attempts are not stored yet. Renewals go first, then the owners in rotation. The ids of
    the certificates are by the bucket that has no token for them.
    """
    places = [queue.place_of(each) for each in attempts]
    held: dict[int, list[int]] = defaultdict(list)
    # Rows of buckets are made only for orders that have tokens in all rows that exist.
    chosen = _with_room(queue.in_rotation(places), held, makes=False)
    return _with_room([place for place, _ in chosen], held, makes=True), held


def _with_room(
    ranked: Sequence[Reservation], held: Mapping[int, list[int]], *, makes: bool
) -> list[Place]:
    """Return the places with tokens. Add the others to `held`."""
    charges = charges_at([of_order(each.issuance) for each in ranked], makes=makes)
    room = Room({pk for each in charges for pk in each.costs})
    chosen = []
    for place, costs in zip(ranked, (each.costs for each in charges), strict=True):
        costly = [pk for pk, cost in costs.items() if cost]
        lacks = next((pk for pk in costly if not room.tokens(pk, place.owner_id)), None)
        if lacks:
            held[lacks].append(place.issuance.certificate_id)
        else:
            room.provisional.update((pk, place.owner_id) for pk in costly)
            chosen.append((place, costs))
    return chosen


def queue_up(places: Sequence[Place]) -> None:
    """Store the places of attempts that were stored."""
    charged = [(place, costs) for place, costs in places if costs]
    Reservation.objects.bulk_create([place for place, _ in charged])
    note_tokens(charged)


def slot_of(certificate: Certificate) -> datetime | None:
    """Return the estimated time of the order of a certificate that is held back, else None."""
    if not certificate.lacks_id:
        return None
    bucket, owner, ends = certificate.lacks_id, certificate.owner_id, certificate.expires_at
    sooner = Q(expires_at__lt=ends) if ends else Q(expires_at__isnull=False)
    sooner |= Q(expires_at=ends, pk__lt=certificate.pk)
    ahead = Certificate.objects.filter(sooner, lacks=bucket, owner=owner).count()
    return Room([bucket]).slot(bucket, 1, owner, ahead)
