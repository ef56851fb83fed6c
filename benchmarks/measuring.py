"""CPU seconds and memory of processes and their descendants, read from /proc."""

import json
import os
import pathlib
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
MB = 2**20


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


def family(pid: int, processes: Mapping[int, Stat]) -> set[int]:
    """Return the ids of a process and its descendants."""
    found = {pid}
    new = {pid}
    while new := {each for each, stat in processes.items() if stat.parent in new} - found:
        found |= new
    return found & set(processes)


def cpu_of(pid: int, processes: Mapping[int, Stat]) -> float:
    """Return the CPU seconds of a process and its descendants."""
    return sum(processes[each].cpu for each in family(pid, processes))


def rss_of(pid: int) -> float:
    """Return the resident memory of a process and its descendants, in MB."""
    processes = stats()
    return sum(processes[each].rss for each in family(pid, processes)) / MB


def pss_of(pids: Iterable[int]) -> float:
    """Return the proportional memory of the processes, in MB. Shared pages count once."""
    return sum(_pss(pid) for pid in pids) / 1024


def _pss(pid: int) -> int:
    lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def busy() -> float:
    """Return the CPU seconds of everything on this machine, since it was started."""
    first = pathlib.Path("/proc/stat").read_text().partition("\n")[0]
    ticks = [int(each) for each in first.split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / TICKS  # without idle and waiting for disks


class Meter:
    """What named processes used since the meter was made.

    `foreign_cores` is how many cores were busy with programs that this process did not start.
    """

    def __init__(self, pids: Mapping[str, int]) -> None:
        self.pids = pids
        self.began = time.perf_counter()
        self.cpu, self.foreign = self._now()

    def _now(self) -> tuple[dict[str, float], float]:
        processes = stats()
        foreign = busy() - cpu_of(os.getpid(), processes)
        return {name: cpu_of(pid, processes) for name, pid in self.pids.items()}, foreign

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def read(self) -> tuple[dict[str, float], float]:
        """Return the CPU seconds by name, and `foreign_cores`."""
        wall = self.seconds
        cpu, foreign = self._now()
        used = {name: cpu[name] - before for name, before in self.cpu.items()}
        return used, max(0.0, foreign - self.foreign) / wall


def tell(**figures: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps({name: rounded(value) for name, value in figures.items()}), flush=True)


def rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value
