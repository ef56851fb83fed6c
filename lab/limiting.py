"""A CA's limits on new orders, like those of Let's Encrypt: token buckets that fill all the time.

A limit is data: (capacity, seconds until one token is back). An order takes one token from three
kinds of buckets: account, each registered domain, and exact set of names.

Each name also has a bucket of failed validations. An order needs a token there, but only a failure
takes it. See https://letsencrypt.org/docs/rate-limits/
"""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

import publicsuffixlist

ACCOUNT, DOMAIN, SET, FAILURES = KINDS = ("account", "domain", "set", "failures")
HELP = "https://letsencrypt.org/docs/rate-limits/"
ENOUGH = 1 - 1e-6  # one token, with room for errors of floating point
SAYS = {
    ACCOUNT: "too many new orders ({count}) from this account",
    DOMAIN: 'too many certificates ({count}) already issued for "{subject}"',
    SET: "too many certificates ({count}) already issued for this exact set of identifiers",
    FAILURES: 'too many failed authorizations ({count}) for "{subject}"',
}


@dataclass(frozen=True)
class Order:
    """The content of a newOrder. `names` are sorted."""

    account: str
    names: tuple[str, ...]
    replaces: str = ""
    profile: str = ""


class Bucket(NamedTuple):
    kind: str
    subject: str


@dataclass(frozen=True)
class Refusal:
    """The limit that refuses the order. With several limits, it is the one that lasts longest."""

    bucket: Bucket
    seconds: float  # until a token is back
    detail: str


@dataclass(frozen=True)
class Limit:
    capacity: int
    each: float  # seconds until one token is back

    def level(self, full_at: float, now: float) -> float:
        """Return the tokens in a bucket that is full at `full_at`, in epoch seconds."""
        return self.capacity - max(0.0, full_at - now) / self.each


class Limits:
    """The buckets of one CA. Times are seconds since the epoch. The caller must hold a lock.

    A bucket is one number, the time when it is full again (the generic cell rate algorithm).
    `suffixes` are added to the public suffix list.
    """

    def __init__(self, limits: Mapping[str, Sequence[float]], suffixes: Iterable[str] = ()) -> None:
        if unknown := set(limits) - set(KINDS):
            raise ValueError(f"unknown limits {sorted(unknown)}; allowed are {KINDS}")
        self.limits = {
            kind: Limit(int(capacity), float(each)) for kind, (capacity, each) in limits.items()
        }
        self.suffixes = frozenset(suffix.strip(".").lower() for suffix in suffixes)
        self._full_at: dict[Bucket, float] = {}

    def take(self, order: Order, now: float, *, is_renewal: bool = False) -> list[Bucket] | Refusal:
        """Take the tokens and return their buckets, or return why the order is refused.

        A refused order costs no token. A renewal of exactly the same names takes no token from its
        account and its domains.
        """
        charged, needed = self._buckets(order, is_renewal)
        over = [
            self._refusal(bucket, now)
            for bucket in charged + needed
            if self.level(bucket, now) < ENOUGH
        ]
        if over:
            return max(over, key=lambda refusal: refusal.seconds)
        for bucket in charged:
            self.spend(bucket, now)
        return charged

    def give_back(self, charged: Iterable[Bucket]) -> None:
        """Return the tokens of an order that the CA refused for another reason."""
        for bucket in charged:
            if bucket in self._full_at:
                self._full_at[bucket] -= self.limits[bucket.kind].each

    def failed(self, account: str, name: str, now: float) -> None:
        """Count an authorization for the name that became invalid."""
        if FAILURES in self.limits:
            self.spend(Bucket(FAILURES, f"{account} {name}"), now)

    def level(self, bucket: Bucket, now: float) -> float:
        """Return the tokens in the bucket."""
        return self.limits[bucket.kind].level(self._full_at.get(bucket, 0.0), now)

    def _buckets(self, order: Order, is_renewal: bool) -> tuple[list[Bucket], list[Bucket]]:
        """Return the buckets that are charged, and those that must only have a token."""
        charged = [Bucket(SET, ",".join(order.names))]
        if not is_renewal:
            domains = sorted({registered_domain(name, self.suffixes) for name in order.names})
            charged = [
                Bucket(ACCOUNT, order.account),
                *(Bucket(DOMAIN, domain) for domain in domains),
                *charged,
            ]
        needed = [
            Bucket(FAILURES, f"{order.account} {name.removeprefix('*.')}") for name in order.names
        ]
        return self._limited(charged), self._limited(needed)

    def _limited(self, buckets: Iterable[Bucket]) -> list[Bucket]:
        return [bucket for bucket in buckets if bucket.kind in self.limits]

    def spend(self, bucket: Bucket, now: float) -> bool:
        """Take a token. Return whether there was one."""
        had_one = self.level(bucket, now) >= ENOUGH
        self._full_at[bucket] = (
            max(now, self._full_at.get(bucket, 0.0)) + self.limits[bucket.kind].each
        )
        return had_one

    def _refusal(self, bucket: Bucket, now: float) -> Refusal:
        limit = self.limits[bucket.kind]
        seconds = (1 - self.level(bucket, now)) * limit.each
        says = SAYS[bucket.kind].format(
            count=limit.capacity, subject=bucket.subject.rpartition(" ")[2]
        )
        until = datetime.fromtimestamp(math.ceil(now + seconds), UTC)
        period = spelled(limit.capacity * limit.each)
        return Refusal(
            bucket,
            seconds,
            f"{says} in the last {period}, retry after {until:%Y-%m-%d %H:%M:%S} UTC: see {HELP}",
        )


@cache
def listed_rules() -> frozenset[str]:
    """Return the rules of the public suffix list, from its ICANN and its private part."""
    text = (Path(publicsuffixlist.__file__).parent / "public_suffix_list.dat").read_text("utf-8")
    lines = (line.strip() for line in text.splitlines())
    return frozenset(
        line.encode("idna").decode() for line in lines if line and not line.startswith("//")
    )


def registered_domain(name: str, more: Set[str] = frozenset()) -> str:
    """Return the domain that an order for the name counts in.

    That is one label below the suffix of the longest rule. A suffix returns itself, and so does a
    wildcard right below a suffix. See Boulder's `coveringIdentifier`, which uses
    weppos/publicsuffix-go.
    """
    rules = listed_rules()
    labels = name.lower().split(".")
    start = len(labels) - 1  # of the suffix; without a rule the suffix is the last label
    for at in range(len(labels)):
        rest = ".".join(labels[at:])
        if f"!{rest}" in rules:
            start = at + 1
        elif rest in rules or rest in more:
            start = at
        elif at and f"*.{rest}" in rules:
            start = at - 1
        else:
            continue
        break
    return ".".join(labels[max(start - 1, 0) :])


def spelled(seconds: float) -> str:
    """Return a duration as Go prints it, for example 168h0m0s."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
