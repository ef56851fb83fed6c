"""SIGKILL at every call of an install leaves the old pair or the new pair, never a mixed one."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from certctrl_agent.install import Wanted
from certctrl_agent.state import State
from tests.agent.installs import installer, pair, pair_of, wanted
from tests.agent.plans import copy, run

# Calls that change files, or make a change durable. The child dies before each.
DEADLY = {
    *("open", "fdopen", "write", "fsync", "close", "replace", "rename", "symlink", "unlink"),
    *("mkdir", "rmdir", "fchmod", "fchown", "chmod", "remove"),
}


def killed_at(number: int, call: Callable[[], object]) -> bool:
    """Run the call in a child that kills itself at that event. Return whether it was killed."""
    child = os.fork()
    if not child:
        left = [number]

        def profile(frame: Any, event: str, function: Any) -> None:
            if event == "c_call" and function.__name__ in DEADLY:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        code = 1
        try:
            sys.setprofile(profile)
            call()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def every_kill(tmp_path: Path, prepare: Any, want: Wanted) -> Iterator[tuple[State, Path]]:
    """Yield the folder after each kill of an install, from the first event to the last."""
    number, alive = 0, False
    while not alive:
        number += 1
        place = tmp_path / "case"
        state = State(place / "state")
        prepare(state)
        alive = not killed_at(number, lambda state=state: installer(state).advance(want))
        yield state, place
        place.rename(tmp_path / f"done-{number}")
    assert number > 40, "an install has more calls than that"


@pytest.fixture
def targets(request: Any, tmp_path: Path) -> tuple[Path, Path]:
    """Key and chain, in the folders that the parameter names."""
    one, other = request.param.split()
    return tmp_path / "case" / one / "www.key", tmp_path / "case" / other / "www.pem"


def item(targets: tuple[Path, Path]) -> dict[str, Any]:
    return copy({"private.key": str(targets[0]), "fullchain.pem": str(targets[1])})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "targets"),
    [
        ("nothing", "tls tls"),
        ("regular files", "private certs"),
        ("an earlier version", "tls tls"),
    ],
    indirect=["targets"],
)
def test_every_kill_leaves_one_pair_and_the_next_start_ends_it(
    tmp_path, authority, targets, before
) -> None:
    old, new = authority.issue(), authority.issue()
    reload = run("reload", "true")
    want = wanted(new, item(targets), run("test", "true"), reload)

    def prepare(state: State) -> None:
        for target, content in zip(targets, pair_of(old), strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            if before == "regular files":
                target.write_text(content)
        if before == "an earlier version":
            installer(state).advance(wanted(old, item(targets)))

    whole = {pair_of(new), None if before == "nothing" else pair_of(old)}
    found = set()
    for state, place in every_kill(tmp_path, prepare, want):
        found.add(pair(*targets))
        assert found <= whole
        installer(state).advance(want)
        assert pair(*targets) == pair_of(new)
        assert "trial" not in state.load("installs")["cert-7"]
        left = [path for path in place.rglob("*") if path.name.endswith(".new")]
        assert [path for path in left if "state" not in path.parts] == []
        versions = {path.resolve().parent for path in targets}
        [version] = versions
        assert len(list(version.parent.iterdir())) == 2, "the switch, and what it shows"
    assert found == whole


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["tls tls"], indirect=True)
def test_every_kill_of_a_rollback_ends_with_the_old_pair(tmp_path, authority, targets) -> None:
    old, new = authority.issue(), authority.issue()
    want = wanted(new, item(targets), run("test", "false"))

    def prepare(state: State) -> None:
        installer(state).advance(wanted(old, item(targets)))

    for state, _ in every_kill(tmp_path, prepare, want):
        assert pair(*targets) in (pair_of(old), pair_of(new))
        installer(state).advance(want)
        assert pair(*targets) == pair_of(old)
        assert state.load("installs")["cert-7"]["failed"]["state"] == "rolled_back"
