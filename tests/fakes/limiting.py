"""The rate limits of a fake CA: token buckets that are charged when an order arrives.

The arithmetic (GCRA) differs from the server's own. So a bug in the server's ledger shows as a
refused order.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from certctrl import clock
from certctrl.turns import Trouble
from lab.limiting import registered_domain


@dataclass
class Limiter:
    """The limits of one CA.

    `limits` is {kind: (tokens, seconds until one token is back)}. `refused` counts refused orders
    by kind. `accepted` has the time of each accepted order in epoch seconds.
    """

    limits: Mapping[str, tuple[float, float]]
    # The theoretical arrival time of each bucket (GCRA), in epoch seconds.
    arrivals: dict[tuple[str, str], float] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    accepted: list[float] = field(default_factory=list)
    failed: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def buckets(self, account: int, names: Iterable[str]) -> list[tuple[str, str]]:
        names = list(names)
        domains = sorted({registered_domain(name) for name in names})
        found = [("account", str(account)), *(("domain", domain) for domain in domains)]
        return [*found, ("set", " ".join(sorted(names)))]

    def order(self, account: int, names: Iterable[str]) -> None:
        """Count an order, or raise Trouble with `retry_after` in seconds."""
        now = clock.now().timestamp()
        wanted = [each for each in self.buckets(account, names) if each[0] in self.limits]
        for kind, subject in wanted:
            capacity, each = self.limits[kind]
            early = self.arrivals.get((kind, subject), now) - now - (capacity - 1) * each
            if early > 1e-6:
                self.refused[kind] += 1
                what = f"The CA refused the order: too many orders ({kind}), retry later"
                raise Trouble("ca_rate_limited", what, retry_after=early)
        for kind, subject in wanted:
            arrival = max(now, self.arrivals.get((kind, subject), now))
            self.arrivals[kind, subject] = arrival + self.limits[kind][1]
        self.accepted.append(now)
