"""A walk over every page of the admin, with a million certificates.

    python -m benchmarks.admin [--certificates 1000000] [--most 1.0]

It runs on a real PostgreSQL. First it makes a row of every table, and walks over all pages, so that
the process is warm. Then it copies the rows, each with its own keys, and walks again. It visits
each list, its second and its last page, each choice of each filter, searches that find rows and
one that finds none, each sorted column, the forms of the first and the last row, their histories,
and the forms for new rows.

It prints a line of JSON for each table that is filled, and for each page that took more than half
of the time. At the end it prints one for each of the slowest pages, and one for all. A page that
took too long is read once more, and the faster time counts, because other programs may run. Exits
with 1 when a page takes more than `most` seconds.
"""

import argparse
import os
import sys
import time
from typing import Any

from benchmarks.measuring import tell
from benchmarks.scan import database

SLOWEST = 12  # pages that are printed at the end
EACH = 100  # pages that are visited until one is printed


def fill_once() -> Any:
    """Make a row of each table, and return the operator."""
    import pytest

    from accounts.models import User
    from tests import everything
    from tests.fakes.world import World

    with pytest.MonkeyPatch.context() as monkeypatch:
        world = World(monkeypatch)
        operator = User.objects.create_superuser("operator@example.com", "a-long-password-1A")
        everything.fill(world, everything.waiting(world, operator))
    return operator


def fill(certificates: int) -> None:
    """Copy the rows, and let PostgreSQL count them, as autovacuum does."""
    from django.db import connection

    from tests.fakes.copies import Copies

    began = time.perf_counter()

    def done(table: str, rows: int) -> None:
        tell(filled=table, rows=rows, seconds_so_far=time.perf_counter() - began)

    Copies(certificates).write(done)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE)")
    tell(certificates=certificates, filled_s=time.perf_counter() - began)


class Visits:
    """The visits of the operator. Keeps how many seconds each address took."""

    def __init__(self, operator: Any, most: float) -> None:
        from django.test import Client

        self.client = Client(HTTP_HOST="localhost")
        self.client.force_login(operator)
        self.most = most
        self.took: dict[str, float] = {}

    def visit(self, address: str) -> Any:
        began = time.process_time()
        page, seconds = self.timed(address)
        cpu = time.process_time() - began
        if seconds > self.most:
            seconds = min(seconds, self.timed(address)[1])
        self.took[address] = seconds
        if seconds > self.most / 2 or len(self.took) % EACH == 0:
            tell(visited=len(self.took), page=address, seconds=seconds, cpu_of_python_s=cpu)
        return page

    def timed(self, address: str) -> tuple[Any, float]:
        began = time.perf_counter()
        page = self.client.get(address)
        seconds = time.perf_counter() - began
        assert page.status_code in (200, 302, 403), f"{address}: {page.status_code}"
        return page, seconds


def measure(certificates: int, most: float) -> bool:
    """Fill and walk. Return whether no page takes more than `most` seconds."""
    operator = fill_once()
    from tests.certctrl.adminwalk import walk

    walk(Visits(operator, most).visit)
    fill(certificates)
    visits = Visits(operator, most)
    walk(visits.visit)
    slowest = sorted(visits.took.items(), key=lambda each: -each[1])
    for address, seconds in slowest[:SLOWEST]:
        tell(page=address, seconds=seconds)
    over = [address for address, seconds in slowest if seconds > most]
    tell(pages=len(slowest), slowest_s=slowest[0][1], over=len(over), most_s=most)
    return not over


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--certificates", type=int, default=1_000_000)
    parser.add_argument("--most", type=float, default=1.0)
    given = parser.parse_args(arguments)
    os.environ.setdefault("LOG_LEVEL", "WARNING")  # each visit is a line
    with database():
        return 0 if measure(given.certificates, given.most) else 1


if __name__ == "__main__":
    sys.exit(main())
