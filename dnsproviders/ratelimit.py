"""Keep the rate limits that DNS providers set on the API calls of one user.

All workers share the limits. A bucket is one row, and one conditional UPDATE takes a token for a
call. This is the generic cell rate algorithm. `full_at` is when the bucket would be full again.
"""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Case, F, Q, QuerySet, Value, When
from django.db.models.functions import Greatest

from certctrl import clock
from certctrl.sentences import sentence as _
from certctrl.turns import SKEW, Wait
from dnsproviders.models import ApiBucket, DnsCredential

# Tokens for one visit: find the zone, find the record, write it. A visit begins only when the
# bucket has all of them. Otherwise many turns could take one token each, and none could write.
VISIT = 6
# Seconds. A wrong Retry-After of several days must not stop an owner's renewals for days.
LONGEST_PAUSE = 3600.0
LONGEST_SPREAD = timedelta(minutes=1)  # most random delay that is added to a wait
ROUND = timedelta(minutes=10)  # the time in the sentence of a wait is rounded up to this


class NotSent(Wait):
    """A Wait that is raised before a call goes out. The call changed nothing."""


@dataclass(frozen=True)
class ApiLimit:
    """A limit of `calls` in any window of `seconds`."""

    calls: int
    seconds: float

    @property
    def burst(self) -> int:
        """Return the tokens of a full bucket.

        It is half of the calls, because the other half comes back within the same window.
        """
        return max(1, self.calls // 2)

    @property
    def each(self) -> timedelta:
        """Return how long it takes until one token comes back."""
        return timedelta(
            microseconds=math.ceil(self.seconds * 1_000_000 / max(1, self.calls - self.burst))
        )

    def lead(self, tokens: int) -> timedelta:
        """Return how far in the future `full_at` may be while the bucket has `tokens`."""
        return self.each * (self.burst - min(tokens, self.burst))

    def __str__(self) -> str:
        minutes, seconds = divmod(self.seconds, 60)
        calls = f"{self.calls:,}"
        if not seconds:
            return _("%(calls)s calls in %(minutes)s minutes", calls=calls, minutes=f"{minutes:g}")
        if self.seconds == 1:
            return _("%(calls)s calls in 1 second", calls=calls)
        return _("%(calls)s calls in %(n)s seconds", calls=calls, n=f"{self.seconds:g}")


@dataclass(frozen=True)
class Gate:
    """A lock that lets one change at a time through. All workers share it.

    Some APIs refuse a second change of the same zone at the same time. The lock is a row of
    ApiBucket, and `full_at` is when it opens again. A worker that dies inside keeps the gate closed
    for at most CALL_LIMIT. `what` is the sentence for a person whose attempt waits.
    """

    key: str
    what: str

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Enter the gate, and open it at the end. Raise NotSent while another worker is inside.

        A Wait that leaves the body keeps the gate closed for its `seconds`.
        """
        until = self._enter()
        pause = 0.0
        try:
            yield
        except Wait as wait:
            pause = wait.seconds
            raise
        finally:
            mine = ApiBucket.objects.filter(key=self.key, full_at=until)
            mine.update(full_at=clock.now() + timedelta(seconds=pause))

    def _enter(self) -> datetime:
        now = clock.now()
        until = now + timedelta(seconds=settings.CALL_LIMIT)
        gate = ApiBucket.objects.filter(key=self.key)
        if gate.filter(full_at__lte=now).update(full_at=until):
            return until
        if gate.exists():
            pause = 1 + random.random()  # noqa: S311  (spreads load, protects nothing)
            raise NotSent(pause, self.what, imposed=True)
        ApiBucket.objects.bulk_create([ApiBucket(key=self.key, full_at=now)], ignore_conflicts=True)
        return self._enter()


@dataclass(frozen=True)
class Pace:
    """The rate of one user's calls to one API. Without a limit, every call passes.

    `name` is the provider's name in sentences. `key` is that of the ApiBucket.
    """

    name: str
    key: str
    limit: ApiLimit | None

    def take(self, needs: int = 1) -> None:
        """Take one token if the bucket has at least `needs`. Raise NotSent if it has fewer."""
        if self.limit is None or self._taken(self.limit, needs):
            return None
        bucket = self._bucket().first()
        if bucket:
            raise self._wait(self.limit, bucket.full_at - self.limit.lead(needs))
        ApiBucket.objects.bulk_create(
            [ApiBucket(key=self.key, full_at=clock.now())], ignore_conflicts=True
        )
        return self.take(needs)

    def pause(self, seconds: float | None) -> None:
        """Stop all calls of the user for `seconds`, because the API got too many.

        Without `seconds`, the pause is the limit's window. Cloudflare blocks a user that long.
        No pause is longer than LONGEST_PAUSE.
        """
        if self.limit is None:
            return
        pause = min(self.limit.seconds if seconds is None else seconds, LONGEST_PAUSE)
        full_at = clock.now() + timedelta(seconds=pause) + self.limit.lead(1)
        self._bucket().update(full_at=Greatest(F("full_at"), Value(full_at)))

    def _bucket(self) -> QuerySet[ApiBucket]:
        return ApiBucket.objects.filter(key=self.key)

    def _taken(self, limit: ApiLimit, needs: int) -> bool:
        now = clock.now()
        # A time that no pause can reach comes from a clock that was ahead. The bucket then counts
        # as full.
        too_far = Q(full_at__gt=now + timedelta(seconds=LONGEST_PAUSE + limit.seconds) + SKEW)
        enough = self._bucket().filter(Q(full_at__lte=now + limit.lead(needs)) | too_far)
        full_at = Case(When(too_far, then=Value(now)), default=Greatest(F("full_at"), Value(now)))
        return bool(enough.update(full_at=full_at + Value(limit.each)))

    def _wait(self, limit: ApiLimit, at: datetime) -> NotSent:
        """Return a NotSent until `at`, plus a random delay.

        The delay is there so that the waiting turns do not all come back for one token.
        """
        now = clock.now()
        spread = min(LONGEST_SPREAD, max(timedelta(seconds=1), limit.each * limit.burst / 4))
        until = max(at, now) + spread * random.random()  # noqa: S311  (spreads load, protects nothing)
        by = until + (datetime.min.replace(tzinfo=until.tzinfo) - until) % ROUND
        what = _(
            "%(name)s allows one user %(limit)s, and they are used up. Calls continue by "
            "%(by)s UTC.",
            name=self.name,
            limit=limit,
            by=format(by, "%H:%M"),
        )
        return NotSent((until - now).total_seconds(), what, imposed=True)


def pace_of(name: str, credential: DnsCredential, limit: ApiLimit | None) -> Pace:
    """Return the Pace of calls with this credential.

    `limit` is the provider's own limit. The setting DNS_API_LIMITS overrides it.
    """
    if credential.provider in settings.DNS_API_LIMITS:
        given = settings.DNS_API_LIMITS[credential.provider]
        limit = ApiLimit(*given) if given else None
    # The API counts the calls of its user, but does not say to which user a token belongs. So all
    # credentials of an owner share one bucket. With several users, calls are slower than necessary,
    # but never blocked.
    return Pace(name, f"{credential.provider} {credential.owner_id}", limit)
