"""Limits as a CA keeps them: token buckets counted when an order arrives, by arithmetic of their own (GCRA), so that a
fault in the server's ledger shows as an order that is refused."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from certctrl import clock
from certctrl.turns import Trouble
from lab.limiting import registered_domain


@dataclass
class Limiter:
    """`limits`: kind, tokens, seconds for one back. `refused` counts by kind, `accepted` lists when orders came."""

    limits: Mapping[str, tuple[float, float]]
    arrivals: dict[tuple[str, str], float] = field(
        default_factory=dict
    )  # theoretical arrival time of each bucket
    refused: Counter[str] = field(default_factory=Counter)
    accepted: list[float] = field(default_factory=list)
    failed: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def buckets(self, account: int, names: Iterable[str]) -> list[tuple[str, str]]:
        names = list(names)
        domains = sorted({registered_domain(name) for name in names})
        found = [("account", str(account)), *(("domain", domain) for domain in domains)]
        return [*found, ("set", " ".join(sorted(names)))]

    def order(self, account: int, names: Iterable[str]) -> None:
        """Count an order, or refuse it with the moment to come back."""
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
