from collections.abc import Callable
from typing import Any

import pytest
import time_machine

from accounts.models import User
from tests.devices.agent import Agent, decide, enrolled


@pytest.fixture(autouse=True)
def clock() -> Any:
    """The time of a test moves only when the test moves it."""
    with time_machine.travel("2030-01-01T00:00:00+00:00", tick=False) as traveller:
        yield traveller


@pytest.fixture
def agent(db: None) -> Agent:
    return Agent()


@pytest.fixture
def code(agent: Agent, client_of: Callable[..., Any], alice: User) -> str:
    """A registration code that alice has approved."""
    agent.start()
    decide(client_of(alice), agent.user_code)
    return str(agent.poll()["registration_code"])


@pytest.fixture
def enrolment(agent: Agent, client_of: Callable[..., Any], alice: User) -> dict[str, Any]:
    """The response to the agent's enrolment at alice: `device` and `session`."""
    return enrolled(agent, client_of(alice), alice.pk)
