"""Three years of ten thousand certificates, simulated in memory.

    python -m benchmarks.years [--certificates N] [--days N]

Runs the pure functions that decide when a certificate is renewed (`issuance.renewal`), and the
arithmetic of the rate limits (`issuance.ratelimits.buckets`).

Lives are 90, 45 and 6 days. The CA is down for two days each year. The DNS provider fails one call
in twenty. The limits are those of Let's Encrypt. The CA counts them with its own arithmetic.

Exits with 1 when a certificate expires or the CA refuses an order.
"""

import argparse
import heapq
import os
import random
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from authorities.catalog import Limit
from benchmarks.measuring import tell
from issuance.ratelimits import buckets
from issuance.ratelimits.buckets import Level
from issuance.renewal import schedule

START = datetime(2027, 1, 1, tzinfo=UTC)
LIVES = (90, 90, 90, 45, 45, 6)  # days, used in turn
DOWN = timedelta(days=2)  # downtime of the CA, once a year
GIVES_UP = timedelta(hours=6)  # the time after which an attempt fails when the CA is away
FAILS = 0.05  # share of the calls to the DNS provider
CALLS = 2  # per attempt
OF_AN_ACCOUNT = 500
OF_A_DOMAIN = 20


def limits() -> dict[str, Limit]:
    """Return the limits of Let's Encrypt, from the data of the server."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    import django

    django.setup()
    from authorities import catalog

    return {kind: Limit(*limit) for kind, limit in catalog.LETSENCRYPT_LIMITS.items()}


@dataclass
class Managed:
    number: int
    life: timedelta
    not_after: datetime | None = None
    failures: int = 0
    tried_at: datetime | None = None

    @property
    def account(self) -> int:
        return self.number // OF_AN_ACCOUNT

    @property
    def domain(self) -> int:
        return self.number // OF_A_DOMAIN


@dataclass
class Counted:
    """The CA's own count (the generic cell rate algorithm).

    `arrivals` is when each bucket next accepts an order at the steady rate.
    """

    limits: dict[str, Limit]
    arrivals: dict[tuple[str, int], datetime] = field(default_factory=dict)
    refused: int = 0

    def order(self, wanted: list[tuple[str, int]], now: datetime) -> None:
        for key in wanted:
            limit = self.limits[key[0]]
            arrival = max(now, self.arrivals.get(key, now))
            if arrival - now > timedelta(seconds=(limit.capacity - 1) * limit.each + 1e-3):
                self.refused += 1
            self.arrivals[key] = arrival + timedelta(seconds=limit.each)


class Years:
    def __init__(self, count: int, days: float, seed: int) -> None:
        self.chance = random.Random(seed)
        self.end = START + timedelta(days=days)
        self.certificates = [
            Managed(number, timedelta(days=LIVES[number % len(LIVES)])) for number in range(count)
        ]
        self.due = [(START + timedelta(seconds=number), number) for number in range(count)]
        self.levels: dict[tuple[str, int], Level] = {}
        self.limits = limits()
        self.counted = Counted(self.limits)
        self.orders = self.waits = self.failed = self.expired = 0

    def run(self) -> None:
        while self.due and self.due[0][0] < self.end:
            now, number = heapq.heappop(self.due)
            heapq.heappush(self.due, (self.attempt(self.certificates[number], now), number))

    def attempt(self, each: Managed, now: datetime) -> datetime:
        """Make one attempt. Return when the certificate is looked at again."""
        each.tried_at = each.tried_at or now
        up = self.up_again(now)
        if up - now > GIVES_UP:
            return self.fail(each, now + GIVES_UP)
        wanted = self.wanted(each)
        slot = self.slot(wanted, up)
        if slot > up:
            self.waits += 1
            return slot
        self.take(wanted, up)
        if self.chance.random() < 1 - (1 - FAILS) ** CALLS:
            return self.fail(each, up)
        return self.store(each, up)

    def up_again(self, now: datetime) -> datetime:
        """Return now, or when the CA is back. It is down in the middle of each year."""
        began = START.replace(year=now.year, month=6, day=15)
        return began + DOWN if began <= now < began + DOWN else now

    def wanted(self, each: Managed) -> list[tuple[str, int]]:
        same = [("set", each.number)]
        return (
            same if each.not_after else [*same, ("account", each.account), ("domain", each.domain)]
        )

    def slot(self, wanted: list[tuple[str, int]], now: datetime) -> datetime:
        return max(buckets.slot(self.level(key, now), now, self.limits[key[0]]) for key in wanted)

    def level(self, key: tuple[str, int], now: datetime) -> Level:
        return self.levels.setdefault(key, Level(self.limits[key[0]].capacity, now))

    def take(self, wanted: list[tuple[str, int]], now: datetime) -> None:
        for key in wanted:
            self.levels[key] = buckets.take(self.level(key, now), now, self.limits[key[0]])
        self.counted.order(wanted, now)
        self.orders += 1

    def fail(self, each: Managed, now: datetime) -> datetime:
        each.failures += 1
        self.failed += 1
        at = schedule.retry_at(
            now,
            each.failures,
            each.not_after,
            first_tried_at=each.tried_at or now,
            jitter=self.chance.random(),
        )
        return at or now + timedelta(days=1)  # a person requests it again

    def store(self, each: Managed, now: datetime) -> datetime:
        if each.not_after and each.not_after <= now:
            self.expired += 1
        each.not_after = now + each.life
        each.failures = 0
        return schedule.renew_at(now, each.not_after, None, self.chance.random())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--certificates", type=int, default=10_000)
    parser.add_argument("--days", type=float, default=1096)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    years = Years(given.certificates, given.days, given.seed)
    began = time.monotonic()
    years.run()
    tell(
        certificates=given.certificates,
        days=given.days,
        orders=years.orders,
        waits=years.waits,
        failed=years.failed,
        refused=years.counted.refused,
        expired=years.expired,
        seconds=time.monotonic() - began,
    )
    return 1 if years.expired or years.counted.refused else 0


if __name__ == "__main__":
    sys.exit(main())
