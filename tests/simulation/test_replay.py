"""A seed gives the same run again, so a failure can be replayed."""

import pytest
from django.db import transaction

from tests.simulation.faults import ZOMBIES, Profile
from tests.simulation.mutants import MUTANTS
from tests.simulation.simulation import Report, run

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


def play(seed: int, profile: Profile | None = None, **how: bool) -> Report:
    with transaction.atomic():
        report = run(seed, profile, **how)
        transaction.set_rollback(True)
    return report


@pytest.mark.parametrize("seed", [0, 4, 11, 17, 42])
def test_the_same_seed_gives_the_same_run(seed: int) -> None:
    assert play(seed).trace == play(seed).trace


def test_another_seed_gives_another_run() -> None:
    assert play(1).trace != play(2).trace


def test_watching_changes_nothing() -> None:
    assert play(9).trace == play(9, watching=False).trace


def test_a_failing_run_prints_its_seed_its_history_and_how_to_replay_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    MUTANTS["the reopening"](monkeypatch)
    seed, failing = next(
        (seed, found) for seed in range(60) if (found := play(seed, ZOMBIES)).violations
    )
    report = str(failing)
    assert report.startswith(f"seed {seed} (minutes=6, hold=0.1")
    assert "zone.present" in report
    assert "held_before" in report or "held_after" in report
    assert "left in the zone" in report
    assert report.endswith(f"pytest tests/simulation --seed {seed}")
