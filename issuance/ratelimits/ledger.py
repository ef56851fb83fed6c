"""Lock the rows of buckets for one transaction, and change their tokens."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
NO_LIMIT = Limit(
    float("inf"), 1.0
)  # of a CA with unknown limits; only its own Retry-After closes the bucket
TRIAL = timedelta(minutes=1)  # for the result of the only order of an account in trouble
ENOUGH = 1 - 1e-6  # one token, with room for errors of floating point


class Ledger:
    """Buckets that are locked until the transaction ends. `save()` writes the changes.

    The levels are those for orders of `owner`. The provisional tokens of the reservation `but` are
    not counted. Without `lock` the rows are only read.
    """

    def __init__(
        self,
        ids: Iterable[int],
        owner: int,
        *,
        but: Reservation | None = None,
        lock: bool = True,
    ) -> None:
        wanted = sorted(set(ids))
        rows = LimitBucket.objects.filter(pk__in=wanted).order_by("pk")
        self.rows = {row.pk: row for row in (rows.select_for_update() if lock else rows)}
        self.owner = owner
        # Taken here, but perhaps not yet counted by the CA.
        self.under_way: Counter[int] = Counter()
        self.provisional: Counter[tuple[int, int]] = Counter()  # by bucket and owner
        self._count_tokens(wanted, but)
        self.now = clock.now()  # after the wait for the lock
        self._changed: set[int] = set()

    def _count_tokens(self, wanted: Sequence[int], but: Reservation | None) -> None:
        names = Q(bucket__kind__in=COUNTED_WHEN_ISSUED)
        is_taken = Q(reservation__state=State.SENT) | names & Q(reservation__state=State.SPENT)
        tokens = ReservedToken.objects.filter(is_taken, bucket__in=wanted, cost__gt=0)
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
        return catalog.limits_at(row.ca).get(row.kind, NO_LIMIT)

    def level(self, pk: int, owner: int | None = None) -> float:
        row = self.rows[pk]
        level = Level(row.level, row.at)
        left = buckets.level_at(level, self.now, self.limit(pk), self.under_way[pk])
        return left - self.provisional[pk, self.owner if owner is None else owner]

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

    def slot(self, pk: int, cost: int, ahead: int, owner: int | None = None) -> datetime:
        """Return when an order that has `ahead` others before it may use the bucket."""
        row = self.rows[pk]
        if not cost and row.kind != LimitKind.FAILURES:
            return max(self.now, row.at)
        level = Level(row.level, row.at)
        ahead += self.provisional[pk, self.owner if owner is None else owner]
        return buckets.slot(
            level, self.now, self.limit(pk), self.under_way[pk], ahead if cost else 0
        )

    def take(self, costs: Mapping[int, int]) -> None:
        """Take the tokens of an order that is sent now. They are under way until `end()`.

        A provisional token is only counted. In an account in trouble this order is the trial, and
        the others wait for its result.
        """
        for pk in filter(self.is_in_trouble, costs):
            self.rows[pk].at = self.now + TRIAL
            self._changed.add(pk)
        for pk in _costly(costs):
            if self.rows[pk].kind in COUNTED_WHEN_ISSUED:
                self.provisional[pk, self.owner] += 1
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
        row = self.rows[pk]
        level = buckets.take(Level(row.level, row.at), max(self.now, row.at), STRIKES)
        is_over = self.is_in_trouble(pk) or level.tokens < ENOUGH
        row.level = 0.0 if is_over else level.tokens
        row.at = self.now + pause if is_over else level.at
        self._changed.add(pk)

    def note_success(self) -> bool:
        """Open the bucket of an account in trouble. Return whether there was one."""
        troubled = list(filter(self.is_in_trouble, self.rows))
        for pk in troubled:
            self.rows[pk].level, self.rows[pk].at = STRIKES.capacity, self.now
        self._changed.update(troubled)
        return bool(troubled)

    def spend(self, pk: int) -> None:
        """Take one token, or the rest if the bucket has less than one."""
        self._change(pk, -min(1.0, max(0.0, self.level(pk))))

    def close(self, pk: int, until: datetime) -> None:
        """Close the bucket until `until`, because the CA's own bucket was empty.

        It has at most one token then.
        """
        row = self.rows[pk]
        limit = self.limit(pk)
        filled = buckets.level_at(
            Level(row.level, row.at), max(until, row.at), limit, self.under_way[pk]
        )
        row.level = min(1.0, filled)
        row.at = max(until, row.at)
        self._changed.add(pk)

    def _change(self, pk: int, tokens: float) -> None:
        row = self.rows[pk]
        # A closed bucket gets nothing back, but it can be charged.
        now = max(self.now, row.at) if tokens < 0 else self.now
        level = buckets.take(
            Level(row.level, row.at), now, self.limit(pk), self.under_way[pk], -tokens
        )
        row.level = level.tokens
        row.at = level.at
        self._changed.add(pk)

    def save(self) -> None:
        changed = [self.rows[pk] for pk in sorted(self._changed)]
        if changed:
            LimitBucket.objects.bulk_update(changed, ["level", "at"])
        self._changed.clear()


def _costly(costs: Mapping[int, int]) -> list[int]:
    return [pk for pk, cost in costs.items() if cost]
