"""A request is served in one thread, from the first middleware to the view."""

import asyncio
import io
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.core.signals import request_finished, request_started
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.utils import timezone
from django.utils.translation import activate, get_language

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


def get(handler: OneThread, leaves_after: int = 0) -> list[Any]:
    """Return the messages that answer a GET of a page that does not exist.

    The client leaves after that many parts, or else when the response is complete.
    """

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
            if len(sent) == leaves_after + 1:
                leaves.set()

        await asyncio.wait_for(handler(dict(SCOPE), receive, send), 20)
        return sent

    return asyncio.run(ask())


@pytest.fixture
def signals() -> Iterator[list[tuple[str, int]]]:
    """Signals of requests, each with the thread that sent it."""
    seen: list[tuple[str, int]] = []

    def note(signal: Any, **kwargs: Any) -> None:
        name = "started" if signal is request_started else "finished"
        seen.append((name, threading.get_ident()))

    for each in (request_started, request_finished):
        each.connect(note)
    yield seen
    for each in (request_started, request_finished):
        each.disconnect(note)


def test_the_middleware_of_a_request_runs_in_one_thread(
    monkeypatch: pytest.MonkeyPatch, settings: Any
):
    threads = []

    def noting(middleware: Any) -> Any:
        real = middleware.__call__

        def call(self: Any, request: Any) -> Any:
            threads.append(threading.get_ident())
            return real(self, request)

        return call

    for middleware in (RequestContext, CurrentRequest):
        monkeypatch.setattr(middleware, "__call__", noting(middleware))
    # A thread may be idle only a moment after its response. With more, the second request may get
    # a new one.
    settings.MAX_CONNECTIONS = 1
    handler = OneThread()
    sent = [get(handler), get(handler)]
    assert [messages[0]["status"] for messages in sent] == [404, 404]
    assert len(threads) == 4
    assert len({*threads, threading.get_ident()}) == 2


def test_a_kept_thread_passes_nothing_of_a_request_on(
    monkeypatch: pytest.MonkeyPatch, settings: Any
):
    seen = []

    def view(*_: Any) -> HttpResponse:
        seen.append((threading.get_ident(), get_language(), timezone.get_current_timezone_name()))
        activate("zh-hans")
        timezone.activate("Asia/Shanghai")
        return HttpResponse()

    monkeypatch.setattr(OneThread, "get_response", view)
    settings.MAX_CONNECTIONS = 1
    handler = OneThread()
    get(handler)
    get(handler)
    assert seen[0] == seen[1]


def test_a_lifespan_starts_no_request(signals: list[tuple[str, int]]):
    with pytest.raises(ValueError, match="lifespan"):
        asyncio.run(OneThread()({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert signals == []


def test_a_request_starts_and_ends_in_the_thread_of_its_view(signals: list[tuple[str, int]]):
    """So the thread gives its database connection back."""
    get(OneThread())
    (started, first), (finished, last) = signals
    assert (started, finished) == ("started", "finished")
    assert first == last != threading.get_ident()


def test_a_file_is_sent_in_parts_of_64_kib(monkeypatch: pytest.MonkeyPatch):
    """Django reads files in parts of 4 KiB, and each part is a write to the connection."""
    content = b"a file" * 30_000
    file = FileResponse(io.BytesIO(content))
    monkeypatch.setattr(OneThread, "get_response", lambda *_: file)
    parts = [each.get("body", b"") for each in get(OneThread(), leaves_after=99)[1:]]
    assert b"".join(parts) == content
    assert [len(each) for each in parts] == [65_536, 65_536, 48_928, 0]


def test_a_stream_begins_without_a_thread_and_its_connection(monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[str, int]] = []

    def note(what: str) -> None:
        seen.append((what, threading.get_ident()))

    async def content() -> AsyncIterator[bytes]:
        started = {each.ident for each in threading.enumerate()} - before
        assert len(started) == 1  # it has served the request, and now serves others
        note("part")
        yield b"part"

    def view(*_: Any) -> StreamingHttpResponse:
        note("view")
        return StreamingHttpResponse(content())

    monkeypatch.setattr(OneThread, "get_response", view)
    monkeypatch.setattr("certctrl.onethread.close_old_connections", lambda: note("closed"))
    before = {each.ident for each in threading.enumerate()}
    get(OneThread(), leaves_after=9)
    (view_, closed, part) = seen
    assert (view_[0], closed[0], part[0]) == ("view", "closed", "part")
    assert view_[1] == closed[1] != part[1]


@pytest.mark.parametrize(("parts", "sent"), [(3, 5), (None, 3)])
def test_a_stream_is_closed_at_its_end_and_when_its_client_leaves(
    parts: int | None,
    sent: int,
    monkeypatch: pytest.MonkeyPatch,
    signals: list[tuple[str, int]],
):
    closed = []

    async def content() -> AsyncIterator[bytes]:
        try:
            for _ in range(parts) if parts else itertools.count():
                yield b"part"
                await asyncio.sleep(0)
        finally:
            closed.append(True)

    monkeypatch.setattr(OneThread, "get_response", lambda *_: StreamingHttpResponse(content()))
    messages = get(OneThread(), leaves_after=2 if parts is None else 9)
    assert messages[1]["body"] == b"part"
    assert len(messages) >= sent
    assert ("body" in messages[-1]) == (parts is None)
    assert closed == [True]
    assert [name for name, _ in signals] == ["started", "finished"]
