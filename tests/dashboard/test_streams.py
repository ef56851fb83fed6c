"""Live progress: streams of what is shown, and one reader for all of them."""

import asyncio
from collections.abc import Callable

import pytest

from accounts import sessions
from accounts.models import Session
from certctrl import clock
from dashboard import streams
from dashboard.attempts import mark_of
from dashboard.streams import OVER, Shown, Sight, Stream, Watch, has_room, messages
from issuance.models import Issuance
from tests.patience import LIMIT

BEGUN = Sight("7-a", is_over=False)
WAITS = Sight("7-b", is_over=False)
ENDED = Sight("9-c", is_over=True)
OWNER = 7


class Reads:
    """What the reads ask for, and what is rendered."""

    def __init__(self, *found: Sight) -> None:
        self.found = found
        self.seen: list[list[int]] = []
        self.rendered: list[Shown] = []
        self.ended_sessions: set[str] = set()

    def look(self, attempts: set[int], digests: set[str]) -> tuple[dict[int, Sight], set[str]]:
        self.seen.append(sorted(attempts))
        sight = self.found[min(len(self.seen), len(self.found)) - 1]
        return dict.fromkeys(attempts, sight), digests - self.ended_sessions

    def render(self, wanted: set[Shown]) -> dict[Shown, bytes]:
        self.rendered += wanted
        return {each: part(each) for each in wanted}


def part(shown: Shown) -> bytes:
    return f"{shown.attempt} in {shown.language}".encode()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Reads]:
    """`reads(first, second)` is what the reads find, the last one for ever."""

    def build(*found: Sight) -> Reads:
        made = Reads(*found)
        monkeypatch.setattr(streams, "seen", made.look)
        monkeypatch.setattr(streams, "rendered", made.render)
        monkeypatch.setattr(streams, "LOOK_EVERY", 0.0)
        return made

    return build


def stream(attempt: int = 1, mark: str = BEGUN.mark, language: str = "en") -> Stream:
    return Stream(Shown(attempt, language), OWNER, "a session", mark)


async def collected(page: Stream) -> list[bytes]:
    async with asyncio.timeout(LIMIT):
        return [each async for each in messages(page, {})][1:]


PART = part(Shown(1, "en"))


def test_a_stream_sends_each_move_and_ends_with_the_attempt(reads):
    reads(BEGUN, WAITS, WAITS, ENDED)
    assert asyncio.run(collected(stream())) == [PART, PART + OVER]


def test_a_browser_that_missed_a_move_gets_it_at_once(reads):
    reads(WAITS, ENDED)
    assert asyncio.run(collected(stream(mark=BEGUN.mark))) == [PART, PART + OVER]


@pytest.mark.parametrize(
    "mark", ["", "x" * 9999, ENDED.mark, "-1", "<script>", "1 OR 1=1", "\N{SNOWMAN}", "\r\nid: 9"]
)
def test_any_last_event_id_still_ends_with_the_attempt(reads, mark):
    reads(ENDED)
    assert asyncio.run(collected(stream(mark=mark))) == [PART + OVER]


def test_one_read_and_one_rendering_serve_all_pages_of_a_language(reads):
    made = reads(BEGUN, ENDED)

    async def many() -> list[list[bytes]]:
        pages = [stream(number % 50, language="en") for number in range(500)]
        pages += [stream(number % 50, language="zh-hans") for number in range(100)]
        return await asyncio.gather(*map(collected, pages))

    found = asyncio.run(many())
    assert [len(each) for each in found] == [1] * 600
    assert found[3] == [part(Shown(3, "en")) + OVER]
    assert found[503] == [part(Shown(3, "zh-hans")) + OVER]
    assert made.seen[0] == list(range(50))
    assert len(made.rendered) == len(set(made.rendered)) == 100


def test_a_part_without_a_move_is_rendered_again(reads, monkeypatch):
    reads(BEGUN, BEGUN, ENDED)
    monkeypatch.setattr(streams, "RENDER_EVERY", 0.0)
    assert asyncio.run(collected(stream()))[0] == PART


def test_a_slow_page_gets_only_the_latest_message(reads):
    reads(BEGUN)

    async def slow() -> list[bytes]:
        page = stream()
        sent = messages(page, {})
        await anext(sent)
        page.tell(b"old", WAITS)
        page.tell(b"new", ENDED)
        return [each async for each in sent]

    assert asyncio.run(slow()) == [b"new"]


def test_a_stream_ends_with_its_session(reads):
    made = reads(BEGUN, WAITS)
    made.ended_sessions = {"a session"}
    assert asyncio.run(collected(stream())) == []
    assert made.rendered == []


def test_a_stream_ends_when_its_attempt_is_gone(reads, monkeypatch):
    reads(BEGUN)
    monkeypatch.setattr(streams, "seen", lambda attempts, digests: ({}, digests))
    assert asyncio.run(collected(stream())) == []


def test_nothing_is_read_when_nobody_looks(reads):
    made = reads(BEGUN, WAITS)

    async def look() -> Watch:
        sent = messages(stream(), {})
        await anext(sent)
        await anext(sent)
        await sent.aclose()
        await asyncio.wait_for(streams.watch().task, LIMIT)
        return streams.watch()

    watch = asyncio.run(look())
    assert watch.owners.total() == 0
    assert not watch.rendered_at
    assert len(made.seen) > 0


def test_a_read_that_fails_ends_no_stream(reads, monkeypatch):
    made = reads(BEGUN, ENDED)

    def broken(attempts: set[int], digests: set[str]) -> tuple[dict[int, Sight], set[str]]:
        found = made.look(attempts, digests)
        if len(made.seen) == 1:
            raise OSError("the database is away")
        return found

    monkeypatch.setattr(streams, "seen", broken)
    assert asyncio.run(collected(stream())) == [PART + OVER]


@pytest.fixture
def attempt(certificate, monkeypatch) -> Issuance:
    monkeypatch.setattr(streams.connections, "close_all", lambda: None)
    return certificate.issuances.get()


def reached(attempt: Issuance, state: str) -> None:
    ends = {"ended_at": None, "wake_at": clock.now()} if state in Issuance.OPEN else {}
    Issuance.objects.filter(pk=attempt.pk).update(state=state, **ends)


@pytest.mark.django_db
def test_the_stream_of_another_owner_is_404(visitor, bobs_visitor, attempt):
    address = f"/certificates/{attempt.certificate_id}/attempts/{attempt.pk}/stream"
    for forged in ("x" * 9999, "<script>", "\N{SNOWMAN}", "-1"):
        answer = visitor.get(address, headers={"Last-Event-ID": forged})
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert forged not in str(answer.headers)
    assert bobs_visitor.get(address).status_code == 404


@pytest.mark.django_db
def test_a_stream_without_room_has_no_content(visitor, attempt, settings):
    settings.MAX_STREAMS = 0
    address = f"/certificates/{attempt.certificate_id}/attempts/{attempt.pk}/stream"
    assert visitor.get(address).status_code == 204


@pytest.mark.django_db
def test_the_sight_has_the_mark_of_the_page(visitor, attempt):
    reached(attempt, "ordered")
    page = visitor.get(f"/certificates/{attempt.certificate_id}/attempts/{attempt.pk}")
    sights, _sessions = streams.seen([attempt.pk], [])
    mark = sights[attempt.pk].mark
    assert f"stream?seen={mark}" in page.content.decode()
    assert sights == {attempt.pk: Sight(mark, is_over=False)}


@pytest.mark.django_db
@pytest.mark.parametrize(
    "change", [{"state": "finalized"}, {"waits_for": "It waits."}, {"servers": [{"server": "ns1"}]}]
)
def test_each_move_changes_the_mark(attempt, change):
    attempt.state = "presented"
    before = mark_of(attempt, 7)
    assert mark_of(attempt, 8) != before
    for name, value in change.items():
        setattr(attempt, name, value)
    assert mark_of(attempt, 7) != before


@pytest.mark.django_db
def test_the_attempt_of_a_deleted_certificate_has_no_sight(attempt, certificate):
    assert attempt.pk in streams.seen([attempt.pk], [])[0]
    certificate.retired_at = certificate.created_at
    certificate.save()
    assert streams.seen([attempt.pk], [])[0] == {}


@pytest.mark.django_db
def test_a_message_is_the_part_in_the_language(attempt, settings):
    settings.URL_PREFIX = "/certs"
    english, chinese = Shown(attempt.pk, "en"), Shown(attempt.pk, "zh-hans")
    found = streams.rendered([english, chinese])
    assert "is issued." in found[english].decode()
    assert "is issued." not in found[chinese].decode()
    lines = found[english].decode().split("\n")
    assert lines[:2] == [f"id: {mark_of(attempt, attempt.events.last().pk)}", "event: moved"]
    assert {each[:6] for each in lines[2:-2]} == {"data: "}
    assert lines[-2:] == ["", ""]
    assert "/certs/certificates" in found[english].decode()


@pytest.mark.django_db
@pytest.mark.parametrize("state", ["ordered", "failed", "issued"])
def test_a_part_has_no_token_of_a_session(attempt, state):
    reached(attempt, state)
    shown = Shown(attempt.pk, "en")
    assert b"<input" not in streams.rendered([shown])[shown]


@pytest.mark.django_db
def test_only_an_open_session_of_an_active_user_goes_on(visitor, alice):
    digest = sessions.digest_of(visitor.session.session_key)
    assert streams.seen([], [digest, "another"])[1] == {digest}
    alice.is_active = False
    alice.save()
    assert streams.seen([], [digest])[1] == set()
    alice.is_active = True
    alice.save()
    Session.objects.update(expire_date="2020-01-01T00:00Z")
    assert streams.seen([], [digest])[1] == set()


def test_one_owner_has_half_of_the_streams(settings):
    settings.MAX_STREAMS = 6

    async def open_them(owner: int, most: int) -> int:
        opened = 0
        while opened < most and has_room(owner):
            streams.watch().join(Stream(Shown(1, "en"), owner, "", ""))
            opened += 1
        return opened

    async def crowd() -> list[int]:
        opened = [await open_them(owner, 9) for owner in (1, 2, 3)]
        streams.watch().streams.clear()
        return opened

    assert asyncio.run(crowd()) == [3, 3, 0]


def test_a_stream_waits_beside_the_connections_and_ends_with_the_server(reads):
    reads(WAITS)
    state: dict[str, Stream] = {}

    async def look() -> list[bytes]:
        sent = messages(stream(), state)
        began = [await anext(sent), await anext(sent)]
        state["waiting"].end(None)
        return began + [each async for each in sent]

    assert asyncio.run(look())[1:] == [PART]
    assert state == {}
