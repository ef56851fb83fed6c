"""The limits that APIs of DNS providers set to one user's calls, kept for all workers together.

A bucket is one row, and a call takes a token out of it by one conditional UPDATE: the generic cell rate algorithm, in
which `full_at` is when the bucket would be full again.
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
from certctrl.turns import SKEW, Wait
from dnsproviders.models import ApiBucket, DnsCredential

# A visit (find the zone, find the record, write it) begins only where there are tokens for all of it: a crowd that
# takes one token each, to look, leaves none to write with.
VISIT = 6
LONGEST_PAUSE = 3600.0  # seconds: a Retry-After of days, by mistake, must not keep an owner from renewing for days
LONGEST_SPREAD = timedelta(minutes=1)
ROUND = timedelta(minutes=10)


@dataclass(frozen=True)
class ApiLimit:
    """So many calls in any window of `seconds`."""

    calls: int
    seconds: float

    @property
    def burst(self) -> int:
        """Tokens of a full bucket: half of the calls, since the other half comes back within the same window."""
        return max(1, self.calls // 2)

    @property
    def each(self) -> timedelta:
        """How long a token takes to come back."""
        return timedelta(
            microseconds=math.ceil(self.seconds * 1_000_000 / max(1, self.calls - self.burst))
        )

    def lead(self, tokens: int) -> timedelta:
        """How far ahead `full_at` may be while the bucket holds so many tokens."""
        return self.each * (self.burst - min(tokens, self.burst))

    def __str__(self) -> str:
        minutes, seconds = divmod(self.seconds, 60)
        unit = "second" if self.seconds == 1 else "seconds"
        return f"{self.calls:,} calls in " + (
            f"{self.seconds:g} {unit}" if seconds else f"{minutes:g} minutes"
        )


@dataclass(frozen=True)
class Gate:
    """Lets one change at a time through, of all workers together: some APIs refuse a second one for the same zone.

    It is a row of the buckets' table, and `full_at` is when the gate opens again. A worker that died in it holds it for
    no longer than a call may take.
    """

    key: str
    what: str  # for people who wait

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Raises Wait while another is in it. Whoever leaves it by a Wait has it stay closed for so long."""
        until = self._enter()
        rest = 0.0
        try:
            yield
        except Wait as wait:
            rest = wait.seconds
            raise
        finally:
            mine = ApiBucket.objects.filter(key=self.key, full_at=until)
            mine.update(full_at=clock.now() + timedelta(seconds=rest))

    def _enter(self) -> datetime:
        now = clock.now()
        until = now + timedelta(seconds=settings.CALL_LIMIT)
        gate = ApiBucket.objects.filter(key=self.key)
        if gate.filter(full_at__lte=now).update(full_at=until):
            return until
        if gate.exists():
            raise Wait(1 + random.random(), self.what, asked=True)  # noqa: S311  (spreads load, protects nothing)
        ApiBucket.objects.bulk_create([ApiBucket(key=self.key, full_at=now)], ignore_conflicts=True)
        return self._enter()


@dataclass(frozen=True)
class Pace:
    """The calls of one user to one API. Without a limit everything passes, and nothing is asked."""

    name: str  # of the provider, for people
    key: str
    limit: ApiLimit | None

    def take(self, needs: int = 1) -> None:
        """Take a token where there are `needs` of them, in one UPDATE; raises Wait where there are not."""
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
        """The API says that it had too many calls: from now on nobody makes one for so long. Where it does not say how
        long, for the limit's own window, which is how long Cloudflare blocks a user."""
        if self.limit is None:
            return
        pause = min(self.limit.seconds if seconds is None else seconds, LONGEST_PAUSE)
        full_at = clock.now() + timedelta(seconds=pause) + self.limit.lead(1)
        self._bucket().update(full_at=Greatest(F("full_at"), Value(full_at)))

    def _bucket(self) -> QuerySet[ApiBucket]:
        return ApiBucket.objects.filter(key=self.key)

    def _taken(self, limit: ApiLimit, needs: int) -> bool:
        now = clock.now()
        # A moment that no pause reaches was written by a clock that was ahead: the bucket is taken for full.
        too_far = Q(full_at__gt=now + timedelta(seconds=LONGEST_PAUSE + limit.seconds) + SKEW)
        enough = self._bucket().filter(Q(full_at__lte=now + limit.lead(needs)) | too_far)
        full_at = Case(When(too_far, then=Value(now)), default=Greatest(F("full_at"), Value(now)))
        return bool(enough.update(full_at=full_at + Value(limit.each)))

    def _wait(self, limit: ApiLimit, at: datetime) -> Wait:
        """Until then, and a little longer: spread, so that a crowd does not come back for the one token at once."""
        now = clock.now()
        spread = min(LONGEST_SPREAD, max(timedelta(seconds=1), limit.each * limit.burst / 4))
        until = max(at, now) + spread * random.random()  # noqa: S311  (spreads load, protects nothing)
        by = until + (datetime.min.replace(tzinfo=until.tzinfo) - until) % ROUND
        what = f"{self.name} takes {limit} from one user, and they are used up; this goes on by {by:%H:%M} UTC."
        return Wait((until - now).total_seconds(), what, asked=True)


def pace_of(name: str, credential: DnsCredential, limit: ApiLimit | None) -> Pace:
    """How fast the API may be called with this credential; `limit` is the provider's own, which settings override."""
    if credential.provider in settings.DNS_API_LIMITS:
        given = settings.DNS_API_LIMITS[credential.provider]
        limit = ApiLimit(*given) if given else None
    # The API counts a user, and does not say whose a token is; that an owner's credentials are all of one user is the
    # rule, and where they are not, they are slower than they might be, and never blocked.
    return Pace(name, f"{credential.provider} {credential.owner_id}", limit)
