"""`make test` and `make test-all` share the suite between them, and CI runs both."""

import re
import shlex
import subprocess

import pytest
from _pytest.mark.expression import Expression

from lab.ca import PROJECT

TARGETS = ("test", "test-all")


def commands(target: str, *variables: str) -> list[list[str]]:
    """The words of each call of pytest that `make` would do for the target."""
    call = ["make", "--dry-run", "--old-file", ".venv/.dev", target, *variables]
    printed = subprocess.run(call, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    return [shlex.split(line) for line in printed.splitlines() if "-m pytest" in line]


def selects(command: list[str], marks: set[str]) -> bool:
    """Whether the last `-m` of the command selects a test that has these marks."""
    last = len(command) - 1 - command[::-1].index("-m")
    return Expression.compile(command[last + 1]).evaluate(lambda name: name in marks)


@pytest.mark.parametrize("marks", [set(), {"slow"}, {"postgres"}, {"postgres", "slow"}])
def test_every_test_is_in_exactly_one_of_the_two_targets(marks: set[str]) -> None:
    on_sqlite = [selects(commands(target)[0], marks) for target in TARGETS]
    on_postgres = [selects(commands(target)[1], marks) for target in TARGETS]
    assert sorted(on_sqlite) == [False, True]
    assert sorted(on_postgres) == [False, "postgres" in marks]


def test_the_fast_tests_each_run_on_one_database() -> None:
    for marks in (set(), {"postgres"}):
        assert [selects(command, marks) for command in commands("test")].count(True) == 1


@pytest.mark.parametrize("target", TARGETS)
def test_args_select_in_every_run_of_a_target(target: str) -> None:
    sqlite, postgres = commands(target, "ARGS=tests/keystore -k rotation")
    assert sqlite[-3:] == postgres[-3:] == ["tests/keystore", "-k", "rotation"]
    assert "tests.settings_postgres" in postgres
    assert "--ds" not in sqlite


def test_ci_runs_the_checks_and_both_targets() -> None:
    script = (PROJECT / ".ci/run").read_text()
    assert re.findall(r"^make (\S+)$", script, re.MULTILINE) == ["lint", *TARGETS]
