"""`make bench`: measure, and write the table of docs/performance.md.

`make bench ARGS="--rows idle,create"` measures these rows again and keeps the others. The page is
written after each part, so a run that was stopped goes on with the missing rows.

`make bench-quick` measures the same rows with fewer certificates in less than three minutes. It
prints the table, and writes it only with `--page FILE`.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from benchmarks import crowd, embedded, fleet, machine, ours, page, peers, turns
from benchmarks.page import Line
from tests.e2e import processes

PARTS = {
    "turns": turns.ROWS,
    "ours": ours.ROWS,
    "peers": peers.ROWS,
    "crowd": crowd.ROWS,
    "fleet": fleet.ROWS,
    "embedded": embedded.ROWS,
}
ROWS = tuple(dict.fromkeys(row for rows in PARTS.values() for row in rows))
LIMIT = 1200.0  # seconds for one part
EMPTY = f"# Performance\n\n{page.BEGIN}\n{page.END}\n"


def chosen(rows: Sequence[str]) -> dict[str, list[str]]:
    """Return the rows of each part that has one of `rows`."""
    wanted = {part: [row for row in own if row in rows] for part, own in PARTS.items()}
    return {part: own for part, own in wanted.items() if own}


def lines_of(part: str, rows: Sequence[str], quick: bool) -> Iterator[Line]:
    """Run a part in a process of its own. Yield its lines.

    A row without a line gets one with an `error`.
    """
    command = [sys.executable, "-m", f"benchmarks.{part}", "--rows", ",".join(rows)]
    missing = dict.fromkeys(rows)
    with subprocess.Popen(
        [*command, *(["--quick"] if quick else [])], stdout=subprocess.PIPE, text=True
    ) as process:
        alarm = signal.signal(signal.SIGALRM, lambda *_: process.send_signal(signal.SIGINT))
        signal.alarm(int(LIMIT))
        try:
            for text in process.stdout or ():
                print(text, end="", flush=True)
                with contextlib.suppress(json.JSONDecodeError):
                    line = json.loads(text)
                    missing.pop(line["row"], None)
                    yield line
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, alarm)
    if process.returncode:
        for row in missing or rows[-1:]:
            yield {"row": row, "error": f"exit status {process.returncode}"}


def text_of(path: pathlib.Path | None) -> str:
    return path.read_text() if path and path.exists() else EMPTY


def measure(rows: Sequence[str], quick: bool, path: pathlib.Path | None) -> list[Line]:
    """Measure the rows and write the page after each part. Return all lines of the page."""
    stamp = {
        "run": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": machine.commit(),
        "quick": quick,
    }
    about = {"row": "machine", "part": "machine", "is": machine.versions()}
    lines = page.replaced(page.raw_lines(text_of(path)), [about])
    for part, own in chosen(rows).items():
        print(f"== {part}: {', '.join(own)}", flush=True)
        new = [line | {"part": part} | stamp for line in lines_of(part, own, quick)]
        lines = page.replaced(lines, new)
        if path:
            path.write_text(page.written(text_of(path), lines))
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {','.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="fewer certificates")
    parser.add_argument("--page", type=pathlib.Path, help="where the table is written")
    given = parser.parse_args(arguments)
    rows = given.rows.split(",")
    if unknown := sorted(set(rows) - set(ROWS)):
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    if missing := processes.missing():
        parser.error(f"install the packages {missing}, for example with apt-get")
    path = given.page or (None if given.quick else page.PAGE)
    lines = measure(rows, given.quick, path)
    print(page.table(lines))
    return 1 if any("error" in line for line in lines) else 0


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    sys.exit(main())
