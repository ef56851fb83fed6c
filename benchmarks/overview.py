"""The pages of an owner with many certificates.

    python -m benchmarks.overview [--certificates 100000] [--most 0.1]

It runs on a real PostgreSQL, with the rows that belong to the certificates. Other owners have as
many. It reads the overview, the list and one certificate, each READS times, in a warm process.

It prints a line of JSON for each page: the seconds of the median and the slowest read. Exits with 1
when the median of a page is more than `most` seconds.
"""

import argparse
import os
import statistics
import sys
from typing import Any

from benchmarks.admin import Visits, fill, fill_once
from benchmarks.measuring import tell
from benchmarks.scan import database

READS = 30


def measure(certificates: int, most: float) -> bool:
    """Fill and read. Return whether no page takes more than `most` seconds."""
    owner = fill_once()
    fill(certificates * 2)  # half of the copies are of this owner
    visits = Visits(owner, most)
    newest = owner.certificates.order_by("-pk").values_list("pk", flat=True)[0]
    medians = [
        read(visits, address) for address in ("/", "/certificates", f"/certificates/{newest}")
    ]
    return max(medians) <= most


def read(visits: Visits, address: str) -> Any:
    visits.timed(address)  # the first read has costs of its own
    took = [visits.timed(address)[1] for _ in range(READS)]
    tell(page=address, median_s=statistics.median(took), slowest_s=max(took))
    return statistics.median(took)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--certificates", type=int, default=100_000)
    parser.add_argument("--most", type=float, default=0.1)
    given = parser.parse_args(arguments)
    os.environ.setdefault("LOG_LEVEL", "WARNING")  # each read is a line
    with database():
        return 0 if measure(given.certificates, given.most) else 1


if __name__ == "__main__":
    sys.exit(main())
