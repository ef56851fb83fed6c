"""Whatever happens while the faults last: everything is issued in the end, and nothing is left behind."""

import pytest

from tests.simulation.simulation import run

pytestmark = pytest.mark.django_db
SEEDS = range(200)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", metafunc.config.getoption("--seed", None) or SEEDS)


def test_a_run_ends_well(seed: int, pytestconfig: pytest.Config) -> None:
    report = run(seed)
    if pytestconfig.getoption("--seed", None):
        print(report)
    assert not report.violations, str(report)
