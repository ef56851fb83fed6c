from collections.abc import Iterator
from typing import Any

import pytest

from tests.scenarios.runner import Scenario
from tests.simulation.simulation import quiet_logs, restart_ids


@pytest.fixture
def scenario(monkeypatch: pytest.MonkeyPatch, settings: Any, db: None) -> Iterator[Scenario]:
    """A server with eight worker threads, and a CA with the limits of Let's Encrypt."""
    restart_ids()
    made = Scenario(monkeypatch)
    made.limit(settings)
    with quiet_logs():
        try:
            yield made
            assert not made.errors
        finally:
            made.scheduler.close()


@pytest.fixture
def owner(scenario: Scenario) -> Any:
    return scenario.someone()


@pytest.fixture
def account(scenario: Scenario, owner: Any) -> Any:
    return scenario.account(owner)


@pytest.fixture
def credential(scenario: Scenario, owner: Any) -> Any:
    return scenario.credential(owner)
