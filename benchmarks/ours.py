"""This project's own figures where other clients have them too, and those of its API.

python -m benchmarks.ours [--rows idle,create,lists] [--quick]
"""

import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from benchmarks import site as sites
from benchmarks.measuring import Meter, tell
from benchmarks.sizes import Sizes, asked
from tests.e2e import pebble
from tests.e2e.processes import Site

ROWS = ("idle", "create", "lists")
ROUNDS = 5  # in which the lists of few and of many are read


class Ours:
    """The rows share one site, in the order of ROWS."""

    def __init__(self, ca: pebble.Pebble, site: Site, sizes: Sizes) -> None:
        self.ca = ca
        self.site = site
        self.sizes = sizes
        self.ids = (site.account(ca), site.credential(ca))
        self.issued = 0

    def names(self, kind: str, number: int) -> list[str]:
        return [f"{kind}{at}.{self.ca.zone}" for at in range(number)]

    def warm_up(self) -> None:
        self.issue(self.names("warm", self.sizes.warm))

    def issue(self, names: list[str]) -> None:
        """Return when all names are issued and every record is removed."""
        sites.create(self.site, self.ids, names)
        self.issued += len(names)
        sites.until_cleaned(self.site, self.issued)

    def idle(self) -> None:
        meter = Meter({})
        took = []
        for name in self.names("idle", self.sizes.idle):
            took.append(sites.one(self.site, self.ids, name))
            self.issued += 1
            sites.until_cleaned(self.site, self.issued)
        tell(
            row="idle",
            who="certctrl",
            n=len(took),
            p50_s=statistics.median(took),
            fastest_s=min(took),
            slowest_s=max(took),
            foreign_cores=meter.read()[1],
        )

    def speed(self) -> None:
        names = self.names("speed", self.sizes.names)
        of_lab = Meter({name: process.pid for name, process in self.ca.processes.items()})
        meter = Meter(sites.pids(self.site))
        self.issue(names)
        wall = meter.seconds
        cpu, foreign = meter.read()
        parts = {name: used * 1000 / len(names) for name, used in sites.grouped(cpu).items()}
        tell(
            row="speed",
            who="certctrl",
            n=len(names),
            clients=sites.CLIENTS,
            workers=sites.WORKERS,
            threads=sites.THREADS,
            wall_s=wall,
            per_s=len(names) / wall,
            cpu_ms=sum(parts.values()),
            **{f"{name}_ms": used for name, used in parts.items()},
            ca_and_dns_ms=sum(of_lab.read()[0].values()) * 1000 / len(names),
            foreign_cores=foreign,
        )

    def create(self) -> None:
        """Create while no worker runs, so that nothing else uses the web process."""
        sites.stop_all_but(self.site, "web", "postgres", "redis")
        names = self.names("create", self.sizes.creates)
        meter = Meter(sites.pids(self.site))
        for name in names:
            self.site.request(*self.ids, name)
        wall = meter.seconds
        cpu, foreign = meter.read()
        tell(
            row="create",
            who="certctrl",
            n=len(names),
            wall_ms=wall * 1000 / len(names),
            **{f"{name}_ms": used * 1000 / len(names) for name, used in cpu.items()},
            foreign_cores=foreign,
        )

    def lists(self) -> None:
        """Read the same page of an owner with few and with many certificates, in turn.

        The few are in a copy of the database, so that all else is the same.
        """
        sites.stop_all_but(self.site, "postgres", "redis")
        sites.use_database(self.site)
        self.fill(self.sizes.list_few)
        with sites.copied(self.site, "few") as few:
            self.fill(self.sizes.list_many)
            self.site.start_web()
            self.site.until_web_answers()
            pages = (Pages(few, self.sizes.list_few), Pages(self.site, self.sizes.list_many))
            for _ in range(ROUNDS):
                for each in pages:
                    each.read(self.sizes.pages // ROUNDS)
            for each in pages:
                each.tell()

    def fill(self, number: int) -> None:
        """Copy certificates until there are `number`."""
        from certctrl import clock
        from issuance.models import Certificate
        from tests.fakes import crowd

        like = Certificate.objects.earliest("pk")
        crowd.certificates(like, number - Certificate.objects.count(), clock.now())
        crowd.settle()


class Pages:
    """The first list page of a site, and one from the middle, read some times."""

    def __init__(self, site: Site, certificates: int) -> None:
        self.site = site
        self.certificates = certificates
        newest = site.call("GET", "certificates?limit=1")[0]["id"]
        self.middle = f"certificates?after={newest - certificates // 2}"
        self.took: list[float] = []
        self.of_middle: list[float] = []
        self.cpu: Counter[str] = Counter()
        self.foreign = 0.0
        for path in ("certificates", self.middle) * 3:  # the first reads have costs of their own
            self.one(path)

    def read(self, number: int) -> None:
        meter = Meter(sites.pids(self.site))
        self.took += [self.one("certificates") for _ in range(number)]
        cpu, foreign = meter.read()
        self.cpu.update(cpu)
        self.foreign = max(self.foreign, foreign)
        self.of_middle += [self.one(self.middle) for _ in range(number)]

    def one(self, path: str) -> float:
        """Return the milliseconds of one read of a list page."""
        began = time.perf_counter()
        assert len(self.site.call("GET", path)) == 100
        return (time.perf_counter() - began) * 1000

    def tell(self) -> None:
        reads = len(self.took)
        tell(
            row="lists",
            who="certctrl",
            certificates=self.certificates,
            n=reads,
            p50_ms=statistics.median(self.took),
            **{f"{name}_ms": used * 1000 / reads for name, used in self.cpu.items()},
            middle_p50_ms=statistics.median(self.of_middle),
            foreign_cores=self.foreign,
        )


def main(arguments: list[str] | None = None) -> int:
    rows, sizes = asked(ROWS, arguments)
    with sites.lab() as ca, sites.at(ca) as site:
        ours = Ours(ca, site, sizes)
        ours.warm_up()
        measures: dict[str, Callable[[], Any]] = {row: getattr(ours, row) for row in ROWS}
        for row in rows:
            measures[row]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
