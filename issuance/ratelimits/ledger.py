"""Lock the rows of buckets for one transaction, and change their tokens."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime

from django.db.models import Count

from authorities import catalog
from authorities.catalog import Limit, LimitKind
from certctrl import clock
from issuance.models import LimitBucket, Reservation, ReservedToken
from issuance.ratelimits import buckets
from issuance.ratelimits.buckets import Level

# The states in which tokens are taken here, but perhaps not yet counted by the CA.
UNDER_WAY = (Reservation.State.GRANTED, Reservation.State.SENT)
NO_LIMIT = Limit(
    float("inf"), 1.0
)  # of a CA with unknown limits; only its own Retry-After closes the bucket
MOST_TOKENS = 1e9  # the stored level of a bucket without a limit
ENOUGH = 1 - 1e-6  # one token, with room for errors of floating point


class Ledger:
    """Buckets that are locked until the transaction ends. `save()` writes the changes.

    Without `lock` the rows are only read.
    """

    def __init__(self, ids: Iterable[int], *, lock: bool = True) -> None:
        wanted = sorted(set(ids))
        rows = LimitBucket.objects.filter(pk__in=wanted).order_by("pk")
        self.rows = {row.pk: row for row in (rows.select_for_update() if lock else rows)}
        taken = ReservedToken.objects.filter(
            bucket__in=wanted, cost__gt=0, reservation__state__in=UNDER_WAY
        )
        self.under_way = Counter(dict(taken.values_list("bucket").annotate(Count("pk"))))
        self.now = clock.now()  # after the wait for the lock
        self._changed: set[int] = set()

    def kind(self, pk: int) -> str:
        return self.rows[pk].kind

    def limit(self, pk: int) -> Limit:
        row = self.rows[pk]
        return catalog.limits_at(row.ca).get(row.kind, NO_LIMIT)

    def level(self, pk: int) -> float:
        row = self.rows[pk]
        return buckets.level_at(
            Level(row.level, row.at), self.now, self.limit(pk), self.under_way[pk]
        )

    def may_use(self, pk: int, cost: int) -> bool:
        """Return whether the order may use the bucket.

        An order that is charged needs a token. An order with `cost` 0 needs a bucket that the CA
        did not close. A bucket of failed validations must always have a token.
        """
        row = self.rows[pk]
        if cost or row.kind == LimitKind.FAILURES:
            return self.level(pk) >= ENOUGH
        return self.now >= row.at

    def has_tokens(self, costs: Mapping[int, int]) -> bool:
        return all(self.may_use(pk, cost) for pk, cost in costs.items())

    def slot(self, pk: int, cost: int, ahead: int) -> datetime:
        """Return when an order that has `ahead` others before it may use the bucket."""
        row = self.rows[pk]
        if not cost and row.kind != LimitKind.FAILURES:
            return max(self.now, row.at)
        level = Level(row.level, row.at)
        return buckets.slot(
            level, self.now, self.limit(pk), self.under_way[pk], ahead if cost else 0
        )

    def take(self, costs: Mapping[int, int]) -> None:
        """Take the tokens of an order that is sent now, or soon.

        The tokens are under way until `end()`.
        """
        for pk in _costly(costs):
            self._change(pk, -1)
            self.under_way[pk] += 1

    def end(self, costs: Mapping[int, int], *, back: bool) -> None:
        """End the tokens that `take()` took.

        With `back` they are given back. Otherwise they are spent.
        """
        for pk in _costly(costs):
            self._change(pk, 1 if back else 0)
            self.under_way[pk] -= 1

    def spend(self, pk: int) -> None:
        """Take one token, or the rest if the bucket has less than one."""
        self._change(pk, -min(1.0, max(0.0, self.level(pk))))

    def refund(self, ids: Iterable[int]) -> None:
        for pk in ids:
            self._change(pk, 1)

    def close(self, pk: int, until: datetime, *, emptied: bool) -> None:
        """Close the bucket until `until`.

        With `emptied` the CA's own bucket was empty, and the bucket has at most one token then.
        Otherwise it has all tokens that come back until then.
        """
        row, limit = self.rows[pk], self.limit(pk)
        filled = buckets.level_at(
            Level(row.level, row.at), max(until, row.at), limit, self.under_way[pk]
        )
        row.level, row.at = (
            min(1.0, filled) if emptied else min(filled, MOST_TOKENS),
            max(until, row.at),
        )
        self._changed.add(pk)

    def _change(self, pk: int, tokens: float) -> None:
        row = self.rows[pk]
        level = buckets.take(
            Level(row.level, row.at), self.now, self.limit(pk), self.under_way[pk], -tokens
        )
        row.level, row.at = level.tokens, level.at
        self._changed.add(pk)

    def save(self) -> None:
        changed = [self.rows[pk] for pk in sorted(self._changed)]
        if changed:
            LimitBucket.objects.bulk_update(changed, ["level", "at"])
        self._changed.clear()


def _costly(costs: Mapping[int, int]) -> list[int]:
    return [pk for pk, cost in costs.items() if cost]
