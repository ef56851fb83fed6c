"""CPU seconds and resident memory of a process and all its descendants, read from /proc."""

import json
import os
import pathlib
from typing import Any, NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Stat(NamedTuple):
    parent: int
    cpu: float  # seconds, with ended children
    rss: int  # bytes


def stats() -> dict[int, Stat]:
    """Return every process of the machine, by process id."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # the process has ended
            continue
        cpu = sum(int(ticks) for ticks in fields[11:15]) / TICKS
        found[int(path.parent.name)] = Stat(int(fields[1]), cpu, int(fields[21]) * PAGE)
    return found


class Use(NamedTuple):
    cpu: float  # seconds
    rss: float  # MB


def use_of(pid: int, processes: dict[int, Stat] | None = None) -> Use:
    """Return CPU and memory of a process and its descendants."""
    processes = processes or stats()
    family = {pid}
    new = {pid}
    while new := {each for each, stat in processes.items() if stat.parent in new} - family:
        family |= new
    mine = [processes[each] for each in family if each in processes]
    return Use(sum(stat.cpu for stat in mine), sum(stat.rss for stat in mine) / 2**20)


def tell(**figures: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps({name: _rounded(value) for name, value in figures.items()}), flush=True)


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value
