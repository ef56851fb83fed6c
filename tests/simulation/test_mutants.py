"""The simulator finds the engine broken wherever it was broken on purpose, and finds the same runs well otherwise."""

from collections.abc import Iterator

import pytest
from django.db import transaction

from tests.simulation.faults import CHANGERS, SHARERS, ZOMBIES, Profile
from tests.simulation.mutants import MUTANTS
from tests.simulation.simulation import Report, run

pytestmark = pytest.mark.django_db
SEEDS = range(40)
PROFILES: dict[str, Profile | None] = {"the need": SHARERS, "the reopening": ZOMBIES}


def runs(profile: Profile | None) -> Iterator[Report]:
    for seed in SEEDS:
        with transaction.atomic():
            report = run(seed, profile)
            transaction.set_rollback(True)  # the next seed begins with an empty database
        yield report


@pytest.mark.parametrize("name", MUTANTS)
def test_a_seed_finds_what_was_broken_on_purpose(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    found = next((report for report in runs(PROFILES.get(name)) if report.violations), None)
    assert found, f"no seed of {len(SEEDS)} finds {name} broken"


@pytest.mark.parametrize("profile", [SHARERS, ZOMBIES, CHANGERS], ids=["sharers", "zombies", "changers"])
@pytest.mark.parametrize("seed", range(5))
def test_the_same_runs_end_well_when_nothing_is_broken(profile: Profile, seed: int) -> None:
    report = run(seed, profile)
    assert not report.violations, str(report)
