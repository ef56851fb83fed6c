"""Two thousand attempts that wait ten minutes for records that never appear.

    python -m benchmarks.waiting [--seconds 120]

It uses a real PostgreSQL, Redis, workers and name servers. New orders at a Pebble are timed
meanwhile. The waiting attempts are written directly to the tables. Waiting includes publishing the
records again. So their credential writes to another name server that nobody asks, and no record
appears where it is looked for.

Prints a line of JSON for each process, and one for the new orders. Exits with 1 when a limit is
exceeded.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from benchmarks.measuring import Use, tell, use_of
from tests.e2e import pebble, processes
from tests.e2e.processes import Site, until

MOST_CPU = 0.10  # of a core, for each worker
MOST_GROWTH = 20.0  # MB of resident memory, for each worker
MOST_DELAY = 1.5  # of a new order, as a multiple of the idle median
PRODUCTION = {"LEASE": "180", "TURN": "80", "RESEND": "120"}
IDLE_ORDERS = 15
WARM_ORDERS = 60  # at the same time
EVERY = 10.0  # seconds between new orders


@contextmanager
def unseen_server(lab: pebble.Pebble) -> Iterator[pebble.Pebble]:
    """Run another primary for the lab's zone. It accepts updates, and nobody asks it."""
    folder = lab.folder / "unseen"
    folder.mkdir()
    other = pebble.Pebble(folder, secret=lab.secret)
    other.ports = pebble.free_ports("dns")
    other.spawn("dns", pebble._bind(other))
    try:
        other.wait_for(other.ports["dns"], "dns")
        yield other
    finally:
        other.stop()


def new_order(site: Site, ids: tuple[int, int], name: str) -> float:
    """Return the seconds from the request to the stored certificate."""
    from certctrl import clock

    began = clock.monotonic()
    certificate = site.request(*ids, name)
    query = "SELECT id FROM issuance_certificateversion WHERE certificate_id = %s"
    until(lambda: site.rows(query, certificate), 120, name, every=0.01)
    return clock.monotonic() - began


def warm_up(site: Site, ids: tuple[int, int], zone: str) -> None:
    """Issue once on every thread of every worker before the measurement.

    The sessions of the threads are not a cost of waiting.
    """
    with ThreadPoolExecutor(WARM_ORDERS) as people:
        list(
            people.map(
                lambda number: new_order(site, ids, f"warm{number}.{zone}"), range(WARM_ORDERS)
            )
        )


def make_waiting(account: int, credential: int, rows: int, zone: str) -> None:
    from authorities.models import AcmeAccount
    from certctrl import clock
    from dnsproviders.models import DnsCredential
    from tests.fakes import waiting

    domains = [f"waiting{number}.{zone}" for number in range(rows)]
    waiting.attempts(
        AcmeAccount.objects.get(pk=account),
        DnsCredential.objects.get(pk=credential),
        domains,
        clock.now(),
    )


def uses(site: Site) -> dict[str, Use]:
    running = {
        name: process.pid for name, process in site.processes.items() if process.poll() is None
    }
    return {name: use_of(pid) for name, pid in running.items()}


def measure(
    site: Site, ids: tuple[int, int], zone: str, seconds: float
) -> tuple[dict[str, Use], list[float]]:
    """Let `seconds` pass, with a new order every EVERY seconds.

    Return the use at the start, and the seconds of each order.
    """
    from certctrl import clock

    pause = threading.Event()
    end = clock.monotonic() + seconds
    before = uses(site)
    took = []
    while (left := end - clock.monotonic()) > 0:
        pause.wait(min(EVERY, left))
        took.append(new_order(site, ids, f"new{len(took)}.{zone}"))
    return before, took


def run(rows: int, seconds: float, workers: int, pool: str) -> bool:
    """Measure and print. Return whether every limit holds."""
    with ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lab = stack.enter_context(pebble.running(folder, nonce_reject=0))
        unseen = stack.enter_context(unseen_server(lab))
        site = stack.enter_context(
            processes.running(lab, workers=workers, pool=pool, concurrency=8, **PRODUCTION)
        )
        os.environ.update(site.environment)
        import django

        django.setup()
        ids = (site.account(lab), site.credential(lab))
        warm_up(site, ids, lab.zone)
        idle = [new_order(site, ids, f"idle{number}.{lab.zone}") for number in range(IDLE_ORDERS)]
        make_waiting(ids[0], site.credential(unseen), rows, lab.zone)
        before, took = measure(site, ids, lab.zone, seconds)
        after = uses(site)
        still = site.states().get("presented", 0) + site.states().get("ordered", 0)
        return report(before, after, seconds, idle, took, still == rows)


def report(
    before: dict[str, Use],
    after: dict[str, Use],
    seconds: float,
    idle: list[float],
    took: list[float],
    still: bool,
) -> bool:
    fine = still
    for name, use in after.items():
        share = (use.cpu - before[name].cpu) / seconds
        growth = use.rss - before[name].rss
        tell(process=name, cpu_of_a_core=share, rss_mb=use.rss, rss_growth_mb=growth)
        if name.startswith("worker"):
            fine = fine and share < MOST_CPU and growth < MOST_GROWTH
    ratio = statistics.median(took) / statistics.median(idle)
    tell(
        new_order_s=statistics.median(took),
        worst_s=max(took),
        idle_s=statistics.median(idle),
        ratio=ratio,
        orders=len(took),
        all_still_waiting=still,
    )
    return fine and ratio <= MOST_DELAY


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pool", choices=["threads", "prefork"], default="threads")
    given = parser.parse_args(arguments)
    return 0 if run(given.rows, given.seconds, given.workers, given.pool) else 1


if __name__ == "__main__":
    sys.exit(main())
