"""Attempts that wait for records which do not come, and the death of every process meanwhile.

    python -m benchmarks.crowd [--rows waiting,killed] [--quick]

The attempts are written directly into the tables, because a CA would take longer to order them
than the wait lasts. From then on everything is real. Each has waited for a while already, so it was
published again as often as an attempt is, and its next look will say what the last one said.
"""

import contextlib
import os
import re
import signal
import statistics
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import psycopg

from benchmarks import site as sites
from benchmarks.measuring import Meter, family, rss_of, stats, tell
from benchmarks.sizes import Sizes, asked
from tests.e2e import pebble
from tests.e2e.processes import Site, until

ROWS = ("waiting", "killed")
ORDER = "https://ca.test/order/%"  # the orders of the attempts that were written
EVERY = 3.0  # seconds between new orders meanwhile
NEW_LIMIT = 60.0  # seconds for one of them
PATIENCE = 360.0  # seconds until an attempt that has no look counts as lost
WAITED = timedelta(minutes=2)
PRESENTS = 3  # an attempt publishes its records again three times at most
SAID = "SELECT waits_for, servers::text FROM issuance_issuance WHERE id = %s AND waits_for <> ''"
ALL_DUE = (
    "UPDATE issuance_issuance SET waits_for = replace(%s, %s, domain), servers = %s,"
    " wake_at = now() FROM issuance_certificate AS certificate"
    " WHERE certificate.id = certificate_id AND order_url LIKE %s"
)
DUE_AGAIN = "UPDATE issuance_issuance SET wake_at = now() WHERE order_url LIKE %s AND holder = ''"
SNAPSHOT = (
    "CREATE TABLE seen AS SELECT id, wake_at, false AS looked FROM issuance_issuance"
    " WHERE order_url LIKE %s"
)
# An attempt may be in its second look already, so those that had one are marked.
MARK = (
    "UPDATE seen SET looked = true FROM issuance_issuance AS now WHERE now.id = seen.id"
    " AND NOT looked AND now.holder = '' AND now.wake_at > seen.wake_at"
)
LOOKED_AT = "SELECT count(*) FROM seen WHERE looked"
# To count all of them takes PostgreSQL as long as hundreds of looks. So a few are read by their
# ids until all of these had a look.
SAMPLE = "SELECT id, wake_at FROM seen WHERE id %% %s = 0"
SAMPLED = "SELECT id, wake_at FROM issuance_issuance WHERE id = ANY(%s) AND holder = ''"
SAMPLED_AT_MOST = 1000
ORDERED_AGAIN = (
    "SELECT count(*) FROM issuance_issuance JOIN seen USING (id) WHERE order_url NOT LIKE %s"
)
ISSUED_TWICE = (
    "SELECT count(*) FROM (SELECT FROM issuance_certificateversion"
    " GROUP BY certificate_id HAVING count(*) > 1) AS twice"
)


class Crowd:
    def __init__(self, lab: pebble.Pebble, site: Site, sizes: Sizes) -> None:
        self.lab = lab
        self.site = site
        self.sizes = sizes
        self.ids = (site.account(lab), site.credential(lab))
        self.credential = site.credential(lab)  # of those that wait
        names = [f"warm{number}.{lab.zone}" for number in range(sizes.warm)]
        sites.create(site, self.ids, names)
        sites.until_cleaned(site, len(names))

    def memory(self) -> dict[str, float]:
        """Return the resident memory of each worker, in MB."""
        running = sites.pids(self.site)
        return {name: rss_of(pid) for name, pid in running.items() if name.startswith("worker")}

    def write(self) -> None:
        """Write all attempts. They are due at once, when this returns."""
        from authorities.models import AcmeAccount
        from certctrl import clock
        from dnsproviders.models import DnsCredential
        from tests.fakes import waiting

        now = clock.now()
        first, *_ = waiting.attempts(
            AcmeAccount.objects.get(pk=self.ids[0]),
            DnsCredential.objects.get(pk=self.credential),
            [f"waiting{number}.{self.lab.zone}" for number in range(self.sizes.waiting)],
            now - WAITED,
            presents=PRESENTS,
            deadline_at=now + timedelta(hours=1),
            wake_at=now + timedelta(hours=1),
        )
        self.execute(("UPDATE issuance_issuance SET wake_at = now() WHERE id = %s", (first.pk,)))
        (row,) = until(lambda: self.site.rows(SAID, first.pk), sites.LIMIT, "the first look")
        values = (row["waits_for"], f"waiting0.{self.lab.zone}", row["servers"], ORDER)
        all_due = (ALL_DUE, values)
        self.execute(all_due, (SNAPSHOT, (ORDER,)))

    def take_snapshot(self) -> None:
        """Note when each of the attempts is due."""
        self.execute(("DROP TABLE IF EXISTS seen", ()), (SNAPSHOT, (ORDER,)))

    def execute(self, *commands: tuple[str, tuple[Any, ...]]) -> None:
        """Execute commands with their values in one transaction."""
        with psycopg.connect(self.site.database, cursor_factory=psycopg.ClientCursor) as connection:
            for command, values in commands:
                connection.execute(command, values)

    def count(self, query: str, *values: str) -> int:
        return int(self.site.rows(query, *values)[0]["count"])

    def issued(self) -> int:
        return self.site.states().get("issued", 0)

    def until_looked_at(self) -> int:
        """Wait until every attempt had a look, or for PATIENCE. Return how many had one."""
        sample = self.sample()
        with contextlib.suppress(AssertionError):
            until(lambda: not self.still_waiting(sample), PATIENCE, "the looks", every=0.25)
            until(lambda: self.looked_at() == self.sizes.waiting, PATIENCE, "the rest", every=1.0)
        return self.looked_at()

    def until_next_look(self) -> None:
        """Wait until an attempt of the sample had a look."""
        sample = self.sample()
        first = len(sample)
        until(lambda: len(self.still_waiting(sample)) < first, PATIENCE, "the next look")

    def sample(self) -> dict[int, datetime]:
        """Return when each attempt of the sample was due, by its id."""
        rows = self.site.rows(SAMPLE, max(1, self.sizes.waiting // SAMPLED_AT_MOST))
        return {row["id"]: row["wake_at"] for row in rows}

    def still_waiting(self, sample: dict[int, datetime]) -> dict[int, datetime]:
        """Return the attempts of the sample that had no look. Take the others out of it."""
        for row in self.site.rows(SAMPLED, list(sample)):
            if row["wake_at"] > sample[row["id"]]:
                del sample[row["id"]]
        return sample

    def looked_at(self) -> int:
        self.execute((MARK, ()))
        return self.count(LOOKED_AT)

    def waiting(self) -> None:
        """Time the first look at each attempt, and new orders after that."""
        before = self.memory()
        self.write()
        meter = Meter(sites.pids(self.site))
        looked = self.until_looked_at()
        pace = looked / meter.seconds
        took = list(self.new_orders())
        growth = {name: size - before[name] for name, size in self.memory().items()}
        wall = meter.seconds
        cpu, foreign = meter.read()
        tell(
            row="waiting",
            who="certctrl",
            n=self.sizes.waiting,
            looked_at=looked,
            looks_per_s=pace,
            growth_mb=max(growth.values()),
            rss_mb=max(self.memory().values()),
            new_p50_s=statistics.median(took),
            new_slowest_s=max(took),
            new_orders=len(took),
            cores={name: used / wall for name, used in sites.grouped(cpu).items()},
            foreign_cores=foreign,
        )

    def new_orders(self) -> Iterator[float]:
        """Order certificates while all others wait. Yield the seconds of each.

        One that is not issued within NEW_LIMIT counts with NEW_LIMIT, and is the last.
        """
        pause = threading.Event()
        for number in range(self.sizes.new_orders):
            pause.wait(EVERY)
            name = f"new{number}.{self.lab.zone}"
            try:
                yield sites.one(self.site, self.ids, name, NEW_LIMIT)
            except AssertionError:
                yield NEW_LIMIT
                return

    def killed(self) -> None:
        """Kill every process while all wait and some are on their way, and start again."""
        if not self.count("SELECT count(*) FROM issuance_issuance WHERE order_url LIKE %s", ORDER):
            self.write()
        others = sum(self.site.states().values()) - self.sizes.waiting
        orders = orders_at(self.lab)
        names = [f"under-way{number}.{self.lab.zone}" for number in range(self.sizes.on_their_way)]
        sites.create(self.site, self.ids, names)
        with contextlib.suppress(AssertionError):
            until(lambda: orders_at(self.lab) >= orders + len(names) / 2, NEW_LIMIT, "the orders")
        self.execute((DUE_AGAIN, (ORDER,)))
        meter = Meter({})
        kill_all(self.site)
        self.start_again()
        self.until_next_look()
        next_look = meter.seconds
        looked = self.until_looked_at()
        every_look = meter.seconds
        others += len(names)
        with contextlib.suppress(AssertionError):
            until(lambda: self.issued() == others, PATIENCE, "those on their way", every=0.5)
        tell(
            row="killed",
            who="certctrl",
            n=self.sizes.waiting,
            next_look_s=next_look,
            every_look_s=every_look,
            lost=self.sizes.waiting - looked,
            ordered_twice=self.count(ORDERED_AGAIN, ORDER),
            on_their_way=len(names),
            never_issued=others - self.issued(),
            issued_twice=self.count(ISSUED_TWICE),
            orders_without_certificate=orders_at(self.lab) - others,
        )

    def start_again(self) -> None:
        """Start everything. Note when each attempt is due, before any worker runs."""
        self.site.start_redis()
        self.site.start_postgres()
        self.take_snapshot()
        self.site.start_web()
        self.site.start_clock()
        for number in range(1, sites.WORKERS + 1):
            self.site.start_worker(f"worker{number}")
        self.site.start_beat()


def kill_all(site: Site) -> None:
    """Send SIGKILL to every process of the site, and wait until all are gone."""
    processes = stats()
    everyone = {each for pid in sites.pids(site).values() for each in family(pid, processes)}
    for pid in everyone:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    sites.stop_all_but(site)
    until(lambda: not everyone & set(stats()), sites.LIMIT, "the end of every process")


def orders_at(lab: pebble.Pebble) -> int:
    log = (lab.folder / "pebble.log").read_text()
    return int(re.findall(r"There are now (\d+) orders in the db", log)[-1])


def main(arguments: list[str] | None = None) -> int:
    rows, sizes = asked(ROWS, arguments)
    names = {"LEASE": sizes.lease, "TURN": sizes.turn, "RESEND": sizes.resend}
    turns = {name: str(seconds) for name, seconds in names.items()}
    with sites.lab() as lab, sites.at(lab, **turns) as site:
        sites.use_database(site)
        crowd = Crowd(lab, site, sizes)
        if "waiting" in rows:
            crowd.waiting()
        if "killed" in rows:
            crowd.killed()
    return 0


if __name__ == "__main__":
    sys.exit(main())
