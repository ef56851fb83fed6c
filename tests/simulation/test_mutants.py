"""The simulator finds every deliberate bug of the engine, and passes the same runs without it."""

import pytest
from django.db import DatabaseError, transaction

from tests.simulation.faults import (
    CHANGERS,
    ENDERS,
    HOLDERS,
    LOSERS,
    OWNERS,
    SHARERS,
    ZOMBIES,
    Profile,
)
from tests.simulation.mutants import MUTANTS
from tests.simulation.simulation import run

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
SEEDS = range(40)
PROFILES: dict[str, Profile | None] = {
    "the need": SHARERS,
    "the reopening": ZOMBIES,
    "the resending": LOSERS,
    "the following": OWNERS,
    "the canary": HOLDERS,
    "the window": HOLDERS,
    "the end": ENDERS,
}


def ends_badly(seed: int, profile: Profile | None) -> bool:
    """Return whether the watch found a violation or the database refused a write."""
    try:
        with transaction.atomic():
            report = run(seed, profile)
            transaction.set_rollback(True)  # the next seed begins with an empty database
    except DatabaseError:
        return True
    return bool(report.violations)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_seed_finds_what_was_broken_on_purpose(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    MUTANTS[name](monkeypatch)
    found = any(ends_badly(seed, PROFILES.get(name)) for seed in SEEDS)
    assert found, f"no seed of {len(SEEDS)} finds {name} broken"


@pytest.mark.parametrize(
    "profile",
    [SHARERS, ZOMBIES, LOSERS, CHANGERS, OWNERS, HOLDERS, ENDERS],
    ids=["sharers", "zombies", "losers", "changers", "owners", "holders", "enders"],
)
@pytest.mark.parametrize("seed", range(5))
def test_the_same_runs_end_well_when_nothing_is_broken(profile: Profile, seed: int) -> None:
    report = run(seed, profile)
    assert not report.violations, str(report)
