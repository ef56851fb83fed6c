"""After any faults, each assigned, active device can open the key in use, and no other can."""

import random
from dataclasses import replace

import pytest

from tests.simulation.faults import Profile, draw
from tests.simulation.simulation import run

pytestmark = pytest.mark.django_db
SEEDS = range(60)
ROLLOUTS = range(2, 22)
SHORT = (0, 1)  # not slow: `make test` runs these
ON_POSTGRES = range(10)  # run once more there


def profile_of(seed: int) -> Profile:
    drawn = draw(random.Random(seed))
    return replace(drawn, devices=3, people=20, healthy=0, forget=drawn.lose)


def _marks(seed: int) -> list[pytest.MarkDecorator]:
    on_postgres = [pytest.mark.postgres] if seed in ON_POSTGRES else []
    slow = [] if seed in SHORT else [pytest.mark.slow]
    return [*on_postgres, *slow]


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=_marks(seed)) for seed in ROLLOUTS])
def test_a_run_with_canaries_and_windows_ends_well(seed: int) -> None:
    report = run(seed, replace(profile_of(seed), rollouts=True, people=40))
    assert not report.violations, str(report)


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=_marks(seed)) for seed in SEEDS])
def test_a_run_with_devices_ends_well(seed: int) -> None:
    report = run(seed, profile_of(seed))
    assert not report.violations, str(report)
