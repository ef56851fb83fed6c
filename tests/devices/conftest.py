import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import time_machine
from django.db import connections

from accounts.models import User
from devices import hub, longpoll, websocket
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


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Return a function that runs a coroutine whose statements stay in the test's transaction.

    Redis is away, and somebody must call `look` of the hub.
    """

    async def at_once(act: Callable[[], Any]) -> Any:
        await asyncio.sleep(0)
        return act()

    async def away(hub: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    monkeypatch.setattr(hub.Hub, "listen", away)
    monkeypatch.setattr(hub.Hub, "in_own_thread", lambda _, act: at_once(act))
    for module in (hub, longpoll, websocket):
        monkeypatch.setattr(module, "in_thread", at_once)
    connection = connections["default"]

    async def on_one_connection(scene: Coroutine[Any, Any, Any]) -> Any:
        connections["default"] = connection  # else each task would open its own
        return await scene

    return lambda scene: asyncio.run(on_one_connection(scene))
