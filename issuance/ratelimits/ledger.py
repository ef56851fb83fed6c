"""Lock the rows of buckets for one transaction, and change their tokens."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from django.db.models import Count, Q

from authorities import catalog
from authorities.catalog import Limit, LimitKind
from certctrl import clock
from issuance.models import LimitBucket, Reservation, ReservedToken
from issuance.ratelimits import buckets
from issuance.ratelimits.buckets import Level
from issuance.ratelimits.charges import STRIKES

State = Reservation.State
# CAs count these when they issue the certificate. Until then the tokens of an attempt are
# provisional. They stay in the bucket, and count against other orders of the same owner only.
COUNTED_WHEN_ISSUED = (LimitKind.DOMAIN, LimitKind.SET)
# Of a CA with unknown limits. Only its own Retry-After closes the bucket.
NO_LIMIT = Limit(float("inf"), 1.0)
NOBODY = 0  # an owner who has no provisional tokens
TRIAL = timedelta(minutes=1)  # for the result of the only order of an account in trouble
ENOUGH = 1 - 1e-6  # one token, with room for errors of floating point
ROUNDED = timedelta(milliseconds=1)  # the same for a slot


class Ledger:
    """Buckets that are locked until the transaction ends. `save()` writes the changes.

    The provisional tokens of the reservation `but` are not counted. Without `lock` the rows are
    only read.
    """

    def __init__(
        self, ids: Iterable[int], *, but: Reservation | None = None, lock: bool = True
    ) -> None:
        rows = LimitBucket.objects.filter(pk__in=set(ids)).order_by("pk")
        self.rows = {row.pk: row for row in (rows.select_for_update() if lock else rows)}
        self._limits = {ca: catalog.limits_at(ca) for ca in {row.ca for row in self.rows.values()}}
        # Taken here, but perhaps not yet counted by the CA.
        self.under_way: Counter[int] = Counter()
        self.provisional: Counter[tuple[int, int]] = Counter()  # by bucket and owner
        self._count_tokens(but)
        self.now = clock.now()  # after the wait for the lock
        self._changed: set[int] = set()

    def _count_tokens(self, but: Reservation | None) -> None:
        names = Q(bucket__kind__in=COUNTED_WHEN_ISSUED)
        is_taken = Q(reservation__state=State.SENT) | names & Q(reservation__state=State.SPENT)
        tokens = ReservedToken.objects.filter(is_taken, bucket__in=self.rows, cost__gt=0)
        if but:
            tokens = tokens.exclude(names, reservation=but)
        counted = tokens.values_list("bucket", "reservation__owner").annotate(Count("pk"))
        for bucket, owner, count in counted:
            if self.rows[bucket].kind in COUNTED_WHEN_ISSUED:
                self.provisional[bucket, owner] = count
            else:
                self.under_way[bucket] += count

    def limit(self, pk: int) -> Limit:
        row = self.rows[pk]
        return self._limits[row.ca].get(row.kind, NO_LIMIT)

    def _stored(self, pk: int) -> Level:
        return Level(self.rows[pk].level, self.rows[pk].at)

    def _store(self, pk: int, level: Level) -> None:
        self.rows[pk].level, self.rows[pk].at = level.tokens, level.at
        self._changed.add(pk)

    def level(self, pk: int, owner: int = NOBODY) -> float:
        """Return the tokens that the bucket has for orders of the owner."""
        limit, under_way = self.limit(pk), self.under_way[pk]
        left = buckets.level_at(self._stored(pk), self.now, limit, under_way)
        return left - self.provisional[pk, owner]

    def slot(self, pk: int, cost: int, owner: int, ahead: int = 0) -> datetime:
        """Return when an order that has `ahead` others before it may use the bucket.

        An order that is charged needs a token. An order with `cost` 0 needs a bucket that the CA
        did not close. A bucket of failed validations must always have a token.
        """
        level = self._stored(pk)
        if not cost and self.rows[pk].kind != LimitKind.FAILURES:
            return max(self.now, level.at)
        ahead += self.provisional[pk, owner]
        return buckets.slot(level, self.now, self.limit(pk), self.under_way[pk], ahead)

    def may_use(self, pk: int, cost: int, owner: int, ahead: int = 0) -> bool:
        """Return whether the slot is now."""
        return self.slot(pk, cost, owner, ahead) <= self.now + ROUNDED

    def take(self, costs: Mapping[int, int], owner: int) -> None:
        """Take the tokens of an order that is sent now. They are under way until `end()`.

        A provisional token is only counted. In an account in trouble this order is the trial, and
        the others wait for its result.
        """
        for pk in filter(self.is_in_trouble, costs):
            self._store(pk, Level(self.rows[pk].level, self.now + TRIAL))
        for pk in _costly(costs):
            if self.rows[pk].kind in COUNTED_WHEN_ISSUED:
                self.provisional[pk, owner] += 1
            else:
                self._change(pk, -1)
                self.under_way[pk] += 1

    def end(self, costs: Mapping[int, int], *, back: bool) -> None:
        """End the tokens that are under way.

        With `back` they are given back. Otherwise they are spent.
        """
        for pk in _costly(costs):
            if self.rows[pk].kind not in COUNTED_WHEN_ISSUED:
                self._change(pk, 1 if back else 0)
                self.under_way[pk] -= 1

    def charge(self, costs: Mapping[int, int]) -> None:
        """Take the provisional tokens of a certificate that the CA may have issued."""
        for pk in _costly(costs):
            if self.rows[pk].kind in COUNTED_WHEN_ISSUED:
                self._change(pk, -1)

    def is_in_trouble(self, pk: int) -> bool:
        """Return whether the CA refused several orders of the account without naming a limit."""
        return self.rows[pk].kind == LimitKind.BUSY and self.rows[pk].level < ENOUGH

    def strike(self, pk: int, pause: timedelta) -> None:
        """Note such a refusal. After three in five minutes, close the bucket for `pause`."""
        stored = self._stored(pk)
        level = buckets.take(stored, max(self.now, stored.at), STRIKES)
        if self.is_in_trouble(pk) or level.tokens < ENOUGH:
            level = Level(0.0, self.now + pause)
        self._store(pk, level)

    def note_success(self) -> bool:
        """Open the bucket of an account in trouble. Return whether there was one."""
        troubled = list(filter(self.is_in_trouble, self.rows))
        for pk in troubled:
            self._store(pk, Level(STRIKES.capacity, self.now))
        return bool(troubled)

    def spend(self, pk: int) -> None:
        """Take one token, or the rest if the bucket has less than one."""
        self._change(pk, -min(1.0, max(0.0, self.level(pk))))

    def close(self, pk: int, until: datetime) -> None:
        """Close the bucket until `until`, because the CA's own bucket was empty.

        It has at most one token then.
        """
        stored = self._stored(pk)
        at = max(until, stored.at)
        filled = buckets.level_at(stored, at, self.limit(pk), self.under_way[pk])
        self._store(pk, Level(min(1.0, filled), at))

    def _change(self, pk: int, tokens: float) -> None:
        stored = self._stored(pk)
        # A closed bucket gets nothing back, but it can be charged.
        now = max(self.now, stored.at) if tokens < 0 else self.now
        under_way = self.under_way[pk]
        self._store(pk, buckets.take(stored, now, self.limit(pk), under_way, -tokens))

    def save(self) -> None:
        changed = [self.rows[pk] for pk in self._changed]
        LimitBucket.objects.bulk_update(changed, ["level", "at"])


def _costly(costs: Mapping[int, int]) -> list[int]:
    return [pk for pk, cost in costs.items() if cost]
