"""Whenever the operator disables a DNS provider, no record is left, and all is issued later."""

import random
from dataclasses import replace

import pytest

from tests.simulation.faults import draw
from tests.simulation.simulation import run

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


@pytest.mark.parametrize("seed", range(20))
def test_a_run_with_outages_ends_well(seed):
    report = run(seed, replace(draw(random.Random(seed)), healthy=0, outages=3))
    assert not report.violations, str(report)
