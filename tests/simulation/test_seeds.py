"""After any faults, every certificate is issued in the end and no record is left.

A certificate whose CA, DNS API and owner have no trouble is issued soon, whatever others meet.
"""

import random
from dataclasses import replace

import pytest

from tests.simulation.faults import Profile, draw
from tests.simulation.simulation import run

pytestmark = pytest.mark.django_db
# By another's clock the short lease of a batch was over. It was found without healthy certificates.
SHORT_LEASE = 5771
# A worker paused between the claim of a batch and its SELECT, and others finished the rows.
PAUSED = 334
SEEDS = (*range(200), PAUSED, SHORT_LEASE)
SHORT = (0, 2, 3, 5, 7)  # not slow: `make test` runs these
ON_POSTGRES = range(40)  # run once more there


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        seeds = metafunc.config.getoption("--seed", None) or SEEDS
        metafunc.parametrize("seed", [pytest.param(seed, marks=_marks(seed)) for seed in seeds])


def _marks(seed: int) -> list[pytest.MarkDecorator]:
    on_postgres = [pytest.mark.postgres] if seed in ON_POSTGRES else []
    slow = [] if seed in SHORT else [pytest.mark.slow]
    return [*on_postgres, *slow]


def profile_of(seed: int) -> Profile:
    profile = draw(random.Random(seed))
    return replace(profile, healthy=0) if seed == SHORT_LEASE else profile


def test_a_run_ends_well(seed: int, pytestconfig: pytest.Config) -> None:
    report = run(seed, profile_of(seed))
    if pytestconfig.getoption("--seed", None):
        print(report)
    assert not report.violations, str(report)
