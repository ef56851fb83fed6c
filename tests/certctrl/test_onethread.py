"""A request is served in one thread, from the first middleware to the view."""

import asyncio
import threading
from typing import Any

import pytest

from accounts.audit import CurrentRequest
from certctrl.log import RequestContext
from certctrl.onethread import OneThread

SCOPE = {
    "type": "http",
    "method": "GET",
    "path": "/nothing",
    "query_string": b"",
    "headers": [(b"host", b"localhost")],
}


def get(handler: OneThread) -> list[Any]:
    """Return the messages that answer a GET of a page that does not exist."""

    async def ask() -> list[Any]:
        sent: list[Any] = []
        asked = iter([{"type": "http.request", "body": b""}])
        leaves = asyncio.Event()

        async def receive() -> Any:
            for message in asked:
                return message
            await leaves.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await handler(SCOPE, receive, send)
        return sent

    return asyncio.run(ask())


def test_the_middleware_of_a_request_runs_in_one_thread(monkeypatch: pytest.MonkeyPatch):
    threads = []

    def noting(middleware: Any) -> Any:
        real = middleware.__call__

        def call(self: Any, request: Any) -> Any:
            threads.append(threading.get_ident())
            return real(self, request)

        return call

    for middleware in (RequestContext, CurrentRequest):
        monkeypatch.setattr(middleware, "__call__", noting(middleware))
    sent = get(OneThread())
    assert sent[0]["status"] == 404
    assert len(threads) == 2
    assert len({*threads, threading.get_ident()}) == 2
