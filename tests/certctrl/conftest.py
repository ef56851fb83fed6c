from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fakes.dripping import Server


@pytest.fixture(autouse=True)
def no_proxy_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers that end with the test."""
    started: list[Server] = []

    def start(*answers: bytes, kind: type[Server] = Server, **options: Any) -> Server:
        started.append(kind(*answers, **options))
        return started[-1]

    yield start
    for server in started:
        server.close()
