"""Many seeds of the simulator: what is printed on the way, and how a stopped run goes on."""

from collections.abc import Iterator

import pytest

from benchmarks import simulation
from benchmarks.simulation import Outcome


@pytest.fixture(autouse=True)
def _seven_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def outcomes(seeds: range, processes: int) -> Iterator[Outcome]:
        for seed in seeds:
            violations = ["attempt 1 has not ended"] if seed == 7 else []
            yield Outcome(seed, violations, 40, 0.02, {"issued": 4})

    monkeypatch.setattr(simulation, "outcomes", outcomes)
    monkeypatch.setattr(simulation, "SAY_EVERY", 0.0)


def test_each_failed_seed_is_printed_with_its_error(capsys):
    assert simulation.main(["--from", "5", "--seeds", "4"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert "seed 7 fails: attempt 1 has not ended" in printed
    assert printed[-2].startswith("4 seeds, 1 failed")
    assert printed[-1].endswith("--seed 7")


def test_a_range_without_a_failed_seed_ends_well(capsys):
    assert simulation.main(["--from", "8", "--seeds", "2"]) == 0
    assert "fails" not in capsys.readouterr().out


def test_each_line_on_the_way_says_where_to_go_on(capsys):
    simulation.main(["--from", "5", "--seeds", "4"])
    printed = capsys.readouterr().out.splitlines()
    ways = [line for line in printed if " of 4 seeds" in line]
    assert [line.rpartition("--from ")[2] for line in ways] == ["6", "7", "8", "9"]
    assert ways[-1].startswith("4 of 4 seeds, 1 failed")
