"""Many seeds of the simulator of faults.

    python -m benchmarks.simulation [--from 0] [--seeds 10000] [--processes 2]

Prints each failed seed with its error, and once a minute how far it is. A run that was stopped goes
on with the `--from` of the last such line. Exits with 1 when a seed fails.
"""

import argparse
import gc
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

SEEDS = 10_000
PROCESSES = 2
SAY_EVERY = 60.0  # seconds


class Outcome(NamedTuple):
    seed: int
    violations: list[str]
    calls: int
    days: float  # simulated
    counts: dict[str, int]


def prepare() -> None:
    """Create a database for this process."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    import django

    django.setup()
    from django.db import connection

    connection.creation.create_test_db(verbosity=0, autoclobber=True)
    gc.disable()  # saves a sixth of the time; play() collects instead
    gc.freeze()  # what was imported is never collected


def play(seed: int) -> Outcome:
    from django.db import transaction

    from tests.simulation.simulation import run

    with transaction.atomic():
        report = run(seed)
        transaction.set_rollback(True)
    if seed % 10 == 0:
        gc.collect()
    return Outcome(seed, report.violations, report.calls, report.seconds / 86400, report.counts)


def outcomes(seeds: range, processes: int) -> Iterator[Outcome]:
    """Yield the outcomes in the order of the seeds."""
    if processes == 1:
        prepare()
        yield from map(play, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(processes, initializer=prepare) as pool:
        yield from pool.imap(play, seeds, chunksize=10)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="first", metavar="SEED", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    options = parser.parse_args(arguments)
    began = said = time.monotonic()
    failed = []
    total = Counter()
    for each in outcomes(range(options.first, options.first + options.seeds), options.processes):
        total.update(seeds=1, calls=each.calls, days=round(each.days), **each.counts)
        if each.violations:
            failed.append(each.seed)
            print(f"seed {each.seed} fails: {each.violations[0]}", flush=True)
        if time.monotonic() - said >= SAY_EVERY:
            said = time.monotonic()
            print(
                f"{total['seeds']} of {options.seeds} seeds, {len(failed)} failed, "
                f"{total['seeds'] / (said - began):.1f} seeds/s; go on with --from {each.seed + 1}",
                flush=True,
            )
    seconds = time.monotonic() - began
    figures = ", ".join(f"{name} {count}" for name, count in sorted(total.items()))
    print(
        f"{options.seeds} seeds, {len(failed)} failed, {options.seeds / seconds:.1f} seeds/s "
        f"({seconds:.0f} s, {options.processes} processes); {figures}"
    )
    if failed:
        print(
            f"{len(failed)} seeds fail; replay one with: pytest tests/simulation --seed "
            f"{min(failed)}"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
