"""Live progress: streams of events, and one reader for all of them."""

import asyncio
from collections.abc import Callable

import pytest

from dashboard import streams
from dashboard.streams import Sight, Stream, Watch, has_room, messages
from tests.patience import LIMIT

OPEN = (7, "ordered", "")
WAITS = (7, "presented", "It waits for a name server.")
OVER = (9, "issued", "")


@pytest.fixture
def sights(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[int]]]:
    """`sights(first, second)` is what the reads find, the last one for ever. Returns the reads."""

    def build(*found: Sight) -> list[list[int]]:
        reads: list[list[int]] = []

        def seen(attempts: list[int]) -> dict[int, Sight]:
            reads.append(sorted(attempts))
            return dict.fromkeys(attempts, found[min(len(reads), len(found)) - 1])

        monkeypatch.setattr(streams, "seen", seen)
        monkeypatch.setattr(streams, "LOOK_EVERY", 0.0)
        return reads

    return build


OWNER = 7


async def collected(attempt: int, last_seen: int) -> list[bytes]:
    return [each async for each in messages(Stream(attempt, OWNER), last_seen, {})][1:]


def moved(event: int) -> bytes:
    return f"id: {event}\nevent: moved\ndata:\n\n".encode()


END = b"event: over\ndata:\n\n"


def test_a_stream_tells_each_move_and_ends_with_the_attempt(sights):
    sights(OPEN, WAITS, OVER)
    assert asyncio.run(collected(1, 7)) == [moved(7), moved(9), END]


def test_a_browser_that_missed_an_event_hears_of_it_at_once(sights):
    sights(OPEN, OVER)
    assert asyncio.run(collected(1, 6)) == [moved(7), moved(9), END]


@pytest.mark.parametrize("last_seen", [0, 10**17])
def test_a_forged_last_event_still_ends_with_the_attempt(sights, last_seen):
    sights(OVER)
    assert asyncio.run(collected(1, last_seen)) == [moved(9), END]


def test_one_read_serves_all_streams_of_a_process(sights):
    reads = sights(OPEN, OVER)

    async def many() -> list[list[bytes]]:
        return await asyncio.gather(*(collected(number % 50, 7) for number in range(500)))

    assert asyncio.run(many()) == [[moved(9), END]] * 500
    assert reads[0] == list(range(50))


def test_nothing_is_read_when_nobody_looks(sights):
    reads = sights(OPEN)

    async def look() -> Watch:
        stream = messages(Stream(1, OWNER), 0, {})
        await anext(stream)
        await anext(stream)
        await stream.aclose()
        await asyncio.wait_for(streams.watch().task, LIMIT)
        return streams.watch()

    assert asyncio.run(look()).owners.total() == 0
    assert len(reads) > 0


def test_a_read_that_fails_ends_no_stream(sights, monkeypatch):
    reads = sights(OPEN, OVER)
    good = streams.seen

    def broken(attempts: list[int]) -> dict[int, Sight]:
        found = good(attempts)
        if len(reads) == 1:
            raise OSError("the database is away")
        return found

    monkeypatch.setattr(streams, "seen", broken)
    assert asyncio.run(collected(1, 7)) == [moved(9), END]


@pytest.mark.django_db
def test_the_stream_of_another_owner_is_404(visitor, bobs_visitor, certificate):
    attempt = certificate.issuances.get()
    address = f"/certificates/{certificate.pk}/attempts/{attempt.pk}/stream"
    answer = visitor.get(address, headers={"Last-Event-ID": "x" * 99})
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert bobs_visitor.get(address).status_code == 404


@pytest.mark.django_db
def test_the_sight_of_an_attempt_has_its_last_event(certificate, monkeypatch):
    monkeypatch.setattr(streams.connections, "close_all", lambda: None)
    attempt = certificate.issuances.get()
    last = attempt.events.order_by("pk").last()
    assert streams.seen([attempt.pk]) == {attempt.pk: (last.pk, "issued", "")}


def test_one_owner_has_half_of_the_streams(settings):
    settings.MAX_STREAMS = 6

    async def open_them(owner: int, most: int) -> int:
        opened = 0
        while opened < most and has_room(owner):
            streams.watch().join(Stream(1, owner))
            opened += 1
        return opened

    async def crowd() -> list[int]:
        opened = [await open_them(owner, 9) for owner in (1, 2, 3)]
        streams.watch().streams.clear()
        return opened

    assert asyncio.run(crowd()) == [3, 3, 0]


def test_a_stream_waits_beside_the_connections_and_ends_with_the_server(sights):
    sights(OPEN)
    state: dict[str, Stream] = {}

    async def look() -> list[bytes]:
        stream = messages(Stream(1, OWNER), 0, state)
        began = [await anext(stream), await anext(stream)]
        state["waiting"].end(None)
        return began + [each async for each in stream]

    assert asyncio.run(look())[1:] == [moved(7)]
    assert state == {}
