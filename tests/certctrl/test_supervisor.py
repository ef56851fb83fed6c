"""The supervisor with real processes: it restarts the dead, stops in order, leaves no orphan."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from certctrl.supervisor import FIRST_PAUSE, LONGEST_PAUSE, Child, ending
from tests.certctrl import supervised
from tests.patience import LIMIT, until

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


class Running:
    """A supervisor in its own process."""

    def __init__(self, folder: Path, what: str, how: str) -> None:
        self.folder = folder
        command = [sys.executable, supervised.__file__, str(folder), what, how]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def pids(self) -> list[tuple[str, int]]:
        file = self.folder / "pids"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(line.rpartition(" ")[0], int(line.rpartition(" ")[2])) for line in lines]

    def wait_for(self, count: int) -> dict[str, int]:
        until(lambda: len(self.pids()) >= count, f"{count} processes")
        return dict(self.pids())

    def end(self, number: int) -> str:
        """Send the signal. Return the output until the end."""
        self.process.send_signal(number)
        return self.process.communicate(timeout=LIMIT)[0]


@pytest.fixture(params=["executed", "forked"])
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Running]]:
    started: list[Running] = []

    def start(what: str) -> Running:
        started.append(Running(tmp_path, what, request.param))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        for _, pid in each.pids():
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        each.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_children_stop_one_after_the_other_the_last_started_first(run, tmp_path, number) -> None:
    supervisor = run("three")
    pids = supervisor.wait_for(3)
    said = supervisor.end(number)
    assert (tmp_path / "stopped").read_text().split() == ["beat", "web", "redis"]
    assert supervisor.process.returncode == 0
    assert said.index("Stopping beat") < said.index("Stopping web") < said.index("Stopping redis")
    assert not any(is_running(pid) for pid in pids.values())


def test_a_child_that_does_not_stop_is_killed_with_its_own_children(run) -> None:
    supervisor = run("deaf")
    pids = supervisor.wait_for(2)
    assert "did not stop in time and is killed" in supervisor.end(signal.SIGTERM)
    until(lambda: not any(is_running(pid) for pid in pids.values()), "both are gone")


def test_asking_again_ends_the_patience(run) -> None:
    supervisor = run("very deaf")
    supervisor.wait_for(2)

    def asked_again() -> bool:
        supervisor.process.send_signal(signal.SIGINT)
        return supervisor.process.poll() is not None

    until(asked_again, "the supervisor is gone")
    assert (
        "deaf did not stop in time and is killed"
        in supervisor.process.communicate(timeout=LIMIT)[0]
    )


def test_two_signals_at_once_are_one_request(run, tmp_path) -> None:
    supervisor = run("three")
    supervisor.wait_for(3)
    supervisor.process.send_signal(signal.SIGINT)
    supervisor.end(signal.SIGTERM)
    assert (tmp_path / "stopped").read_text().split() == ["beat", "web", "redis"]


@linux_only
def test_a_killed_supervisor_leaves_no_orphan_not_even_of_prefork(run) -> None:
    supervisor = run("prefork")
    pids = supervisor.wait_for(3)
    supervisor.end(signal.SIGKILL)
    until(lambda: not any(is_running(pid) for pid in pids.values()), "all are gone")


def test_a_dead_child_is_restarted_and_reported(run) -> None:
    supervisor = run("three")
    first = supervisor.wait_for(3)["web"]
    os.kill(first, signal.SIGKILL)
    again = supervisor.wait_for(4)["web"]
    assert again != first
    said = supervisor.end(signal.SIGTERM)
    assert "web was ended by SIGKILL. It starts again in 0.5 s." in said
    assert not is_running(again)


def test_processes_of_a_dead_child_do_not_outlive_it(run) -> None:
    supervisor = run("deaf")
    before = supervisor.wait_for(2)
    os.kill(before["deaf"], signal.SIGKILL)
    supervisor.wait_for(4)
    until(lambda: not is_running(before["deaf's child"]), "its child is gone")


def test_the_pause_doubles_up_to_half_a_minute() -> None:
    child = Child("web", [])
    pauses = [child.next_pause(now=1.0) for _ in range(9)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]


def test_the_pause_is_short_again_after_a_minute_of_life() -> None:
    child = Child("web", [], started_at=100.0, pause=LONGEST_PAUSE)
    assert child.next_pause(now=159.0) == LONGEST_PAUSE
    assert child.next_pause(now=160.0) == FIRST_PAUSE


def test_the_end_of_a_child_is_described_in_words() -> None:
    assert ending(-9) == "was ended by SIGKILL"
    assert ending(3) == "ended with 3"
