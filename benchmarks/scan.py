"""One pass of the scan for renewals.

    python -m benchmarks.scan [--few 100000] [--many 1000000] [--due 1000]

It runs on a real PostgreSQL, first with `few` certificates and then with `many`. In both cases
`due` of them are due.

For each case it prints a line of JSON. The line has the seconds of the fastest, the median and the
slowest pass. The fastest pass is the least disturbed. Exits with 1 when the many take more than 1.5
times as long as the few.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from benchmarks.measuring import tell

MOST_RATIO = 1.5
PASSES = 9
SHORTLY = timedelta(hours=1)


@contextmanager
def database() -> Iterator[None]:
    """Create and migrate a PostgreSQL database, and drop it afterwards."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings_postgres"
    import django

    django.setup()
    from django.db import connection

    name = connection.settings_dict["NAME"]
    connection.creation.create_test_db(verbosity=0, autoclobber=True)
    try:
        yield
    finally:
        connection.creation.destroy_test_db(name, verbosity=0)


def first_certificate() -> Any:
    """Return an issued certificate with an account and a credential, to be copied."""
    import pytest

    from accounts.models import User
    from tests.fakes.world import World

    with pytest.MonkeyPatch.context() as monkeypatch:
        world = World(monkeypatch)
        owner = User.objects.create_user("owner@example.com")
        certificate, _ = world.create(world.account(owner), world.credential(owner), "example.com")
        world.deliver()
    certificate.refresh_from_db()
    return certificate


def a_pass(like: Any, due: int) -> float:
    """Return the seconds of a scan that finds `due` certificates.

    Its new rows are deleted again.
    """
    from certctrl import clock
    from issuance.beat import renewals
    from issuance.models import Certificate, Issuance
    from tests.fakes import crowd

    last = Certificate.objects.order_by("pk").last()
    crowd.certificates(like, due, clock.now() - SHORTLY)
    crowd.settle()
    began = time.perf_counter()
    renewals.scan_renewals.run()
    took = time.perf_counter() - began
    opened = Issuance.objects.open()
    assert opened.count() == due, f"{opened.count()} of {due} were opened"
    opened._raw_delete(opened.db)
    Certificate.objects.filter(pk__gt=last.pk)._raw_delete(opened.db)
    return took


def measure(like: Any, certificates: int, due: int) -> float:
    a_pass(like, due)  # the first pass has costs that are not part of a scan
    took = [a_pass(like, due) for _ in range(PASSES)]
    tell(
        certificates=certificates,
        due=due,
        pass_s=min(took),
        median_s=statistics.median(took),
        slowest_s=max(took),
    )
    return min(took)


def run(few: int, many: int, due: int) -> bool:
    """Measure and print. Return whether the many take at most MOST_RATIO times as long."""
    from certctrl import clock
    from tests.fakes import crowd

    like = first_certificate()
    crowd.certificates(like, few, clock.now() + timedelta(days=1))
    with_few = measure(like, few, due)
    crowd.certificates(like, many - few, clock.now() + timedelta(days=3))
    with_many = measure(like, many, due)
    tell(ratio=with_many / with_few, most=MOST_RATIO)
    return with_many <= MOST_RATIO * with_few


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--few", type=int, default=100_000)
    parser.add_argument("--many", type=int, default=1_000_000)
    parser.add_argument("--due", type=int, default=1_000)
    given = parser.parse_args(arguments)
    with database():
        return 0 if run(given.few, given.many, given.due) else 1


if __name__ == "__main__":
    sys.exit(main())
