"""A site at a CA that enforces limits. Both have the same limits, and tests read both afterwards.

The CA is Pebble behind the fault proxy. Its zone is a public suffix, so that each name below it is
a registered domain.
"""

import json
import pathlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.e2e import pebble, processes
from tests.e2e.processes import Site, until
from tests.lab import faulty

ZONE = "co.uk"
WORKERS = 2
THREADS = 4  # the cheapest on two cores
LEFT_ALONE = {"LEASE": "180", "TURN": "80", "RESEND": "120"}  # where no worker is killed
# How the stored sentence of an order that waits says for what (issuance.ratelimits.messages).
SAYS = {
    "account": "of the account %(",
    "domain": "registered domain %(",
    "set": "set of names (%(",
}

FAULTS = [
    {"do": "answer", "status": 429, "retry_after": 2, "probability": 0.001},
    {"do": "answer", "status": 503, "retry_after": 2, "probability": 0.001},
    {"do": "answer", "status": 503, "probability": 0.001},
    {"do": "drop_before", "probability": 0.001},
    {"do": "drop_after", "probability": 0.001},
    {"do": "bad_nonce", "probability": 0.0005, "run": 8},
    {"do": "processing", "probability": 0.05, "reads": 2},
    {"do": "already_replaced", "times": 3},
]

Limits = Mapping[str, Sequence[float]]


@dataclass
class Limited:
    """`accounts` are ids at the CA, all of one owner."""

    lab: pebble.Pebble
    proxy: faulty.Proxy
    site: Site
    limits: Limits
    credential: int = 0
    accounts: list[int] = field(default_factory=list)

    def register(self, accounts: int) -> None:
        """Make valid accounts, and a credential without the expensive propagation check."""
        self.credential = self.site.credential(self.lab, propagation_check="off")
        self.accounts = [self.site.account(self.proxy) for _ in range(accounts)]
        count = "SELECT count(*) FROM authorities_acmeaccount WHERE status = 'valid'"
        until(lambda: self.site.rows(count)[0]["count"] == accounts, 60, "the last account")

    def request(self, name: str, account: int = 0) -> int:
        """Request a certificate with the nth account. Return its id."""
        return self.site.request(self.accounts[account], self.credential, name)

    def until_issued(self, attempts: int, seconds: float, cleaned: float = 120) -> None:
        """Wait until all `attempts` are issued. Then wait `cleaned` seconds for the cleanups."""
        what = f"the last of {attempts} certificates"
        until(lambda: self.site.states() == {"issued": attempts}, seconds, what, every=0.5)
        until(lambda: not self.site.uncleaned(), cleaned, "the last cleanup", every=0.5)

    def stop_workers(self) -> None:
        """Kill the workers by SIGKILL."""
        for name in [name for name in self.site.processes if name.startswith("worker")]:
            self.site.kill(name)

    def start_workers(self) -> None:
        for number in range(1, WORKERS + 1):
            self.site.start_worker(f"worker{number}")

    def waited(self) -> dict[str, int]:
        """Return how many attempts waited for each kind of bucket, by their events."""
        query = (
            "SELECT count(DISTINCT issuance_id) FROM issuance_issuanceevent "
            "WHERE step = 'order' AND outcome = 'wait' AND what LIKE %s"
        )
        return {kind: self.site.rows(query, f"%{says}%")[0]["count"] for kind, says in SAYS.items()}


def in_domains(*counts: int) -> list[tuple[str, int]]:
    """Return names of a few registered domains, all of the first account."""
    return [
        (f"host{number}.shared{at}.{ZONE}", 0)
        for at, count in enumerate(counts)
        for number in range(count)
    ]


def same_names(sets: int, askers: int) -> list[tuple[str, int]]:
    """Return `sets` names for each of `askers` other accounts."""
    return [
        (f"www.same{number}.{ZONE}", 1 + asker) for asker in range(askers) for number in range(sets)
    ]


def alone(count: int) -> list[tuple[str, int]]:
    """Return names that each have their own registered domain."""
    return [(f"www.alone{number}.{ZONE}", 0) for number in range(count)]


def issued_before(ca: Limited, count: int) -> list[int]:
    """Issue certificates before the test. Return their ids."""
    ids = [ca.request(f"www.renewed{number}.{ZONE}") for number in range(count)]
    ca.until_issued(count, 300)
    return ids


def pace(accepted: Sequence[Mapping[str, Any]], limits: Limits) -> float:
    """Return the rate of the orders as a part of the rate that the limits allow. 1 is the maximum.

    After its burst a bucket gives one token per interval. So its orders take at least as long as
    their tokens beyond the burst, from the first token that it lost to the last. A name loses its
    token when the CA issues. The slowest bucket counts. Of several that are as slow, the one that
    took longest counts.
    """
    times: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for order in accepted:
        for bucket in order["charged"]:
            is_account = bucket[0] == "account"
            times[tuple(bucket)].append(order["at" if is_account else "issued_at"])
    least = {
        bucket: (len(at) - limits[bucket[0]][0]) * limits[bucket[0]][1]
        for bucket, at in times.items()
    }
    slowest = max(least.values())
    took, bucket = max(
        (max(times[bucket]) - min(times[bucket]), bucket)
        for bucket, seconds in least.items()
        if seconds == slowest
    )
    whole = accepted[-1]["at"] - accepted[0]["at"]
    print(f"{len(accepted)} orders in {whole:.1f} s; {bucket} took {took:.1f} s of {slowest:.1f} s")
    return float(slowest / took)


def mixed(*kinds: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return (name, account) of all kinds, each kind spread evenly."""
    placed = []
    for kind in kinds:
        orders = list(kind)
        placed += [((at + 0.5) / len(orders), *order) for at, order in enumerate(orders)]
    return [(name, account) for _, name, account in sorted(placed)]


@contextmanager
def running(
    folder: pathlib.Path, limits: Limits, *, accounts: int = 1, **settings: str
) -> Iterator[Limited]:
    """Start the site and register the accounts.

    `limits` are {kind: [capacity, seconds until one token is back]}.
    """
    known = {"custom": {"label": "The lab's CA", "limits": limits}}
    with (
        pebble.running(folder, zone=ZONE, nonce_reject=0) as lab,
        faulty.before(lab, limits=limits, names_cost_when_issued=True) as proxy,
        processes.running(
            lab, workers=WORKERS, concurrency=THREADS, ACME_CAS=json.dumps(known), **settings
        ) as site,
    ):
        made = Limited(lab, proxy, site, limits)
        try:
            made.register(accounts)
            yield made
        except BaseException:
            print(proxy.tally)
            raise
