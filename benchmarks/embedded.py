"""The embedded server without the lab: its second start, its memory, and its CPU at rest.

python -m benchmarks.embedded [--quick]
"""

import pathlib
import sys
import tempfile
import threading

import requests

from benchmarks.measuring import Meter, family, pss_of, stats, tell
from benchmarks.sizes import Sizes, asked
from tests.e2e.processes import until
from tests.standalone.starting import Up

ROWS = ("embedded",)
START_LIMIT = 90.0  # seconds


def answers(server: Up) -> bool:
    session = requests.Session()
    session.trust_env = False
    try:
        session.get(f"{server.address}/health", timeout=5)
    except requests.ConnectionError:
        return False
    return True


def started(folder: pathlib.Path) -> tuple[Up, float]:
    """Start the server. Return it, and the seconds until its first response."""
    meter = Meter({})
    server = Up(folder, LAB="0")
    try:
        until(lambda: answers(server), START_LIMIT, "the first response", every=0.02)
        seconds = meter.seconds
        server.wait()
    except BaseException:
        server.end()
        raise
    return server, seconds


def measure(folder: pathlib.Path, sizes: Sizes) -> None:
    server, first = started(folder)
    server.end()
    server, second = started(folder)
    pause = threading.Event()
    try:
        pause.wait(sizes.settled)
        pid = server.process.pid
        meter = Meter({"all": pid})
        pause.wait(sizes.rest)
        cpu, foreign = meter.read()
        seconds = meter.seconds
        everyone = family(pid, stats())
        tell(
            row="embedded",
            who="certctrl",
            first_start_s=first,
            second_start_s=second,
            pss_mb=pss_of(everyone),
            processes=len(everyone),
            idle_percent=100 * cpu["all"] / seconds,
            rest_s=seconds,
            foreign_cores=foreign,
        )
    finally:
        server.end()


def main(arguments: list[str] | None = None) -> int:
    rows, sizes = asked(ROWS, arguments)
    with tempfile.TemporaryDirectory() as folder:
        if rows:
            measure(pathlib.Path(folder, "data"), sizes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
