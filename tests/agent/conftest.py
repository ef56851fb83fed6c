"""Fixtures of the agent: a fake server, a state folder, and an agent that has enrolled."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from certctrl_agent import enrol
from certctrl_agent.follow import Follower
from certctrl_agent.server import Server
from certctrl_agent.state import State
from tests.agent.fakeserver import ENROLMENT_KEY, FakeServer
from tests.agent.pki import Authority


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state")


@pytest.fixture
def lines() -> list[str]:
    """What the agent said."""
    return []


@pytest.fixture
def follower(server: FakeServer, state: State, lines: list[str]) -> Follower:
    """An agent that has enrolled, and has asked for nothing yet."""
    peer = Server(server.origin)
    enrol.with_key(state, peer, "web 1", None, ENROLMENT_KEY, lambda seconds: None)
    return Follower(state, lines.append)
