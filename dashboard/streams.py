"""Live progress: Server-Sent Events with the moving part of an attempt's page.

One task in each web process reads the attempts of all open pages. It renders a part that has
changed once for each language, however many pages show it. A part has nothing of a session.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection
from http import HTTPStatus
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import structlog
from django.conf import settings
from django.db import connections
from django.db.models import OuterRef, Subquery
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.urls import set_script_prefix
from django.utils import translation

from accounts import sessions
from certctrl import clock
from dashboard.attempts import AttemptPart, attempt_of, facts, mark_of
from dashboard.certificate import certificate_of
from dashboard.page import Page
from issuance.models import Issuance, IssuanceEvent

LOOK_EVERY = 0.5  # seconds between two reads
RENDER_EVERY = 30.0  # seconds; a part without a move is rendered again, for its relative times
BEAT_EVERY = 15.0  # seconds between two comments, so that no proxy ends a quiet stream
STREAM_ENDS_AFTER = 600.0  # seconds; the browser then opens the next one
MOST_OF_OWNER = 1 / 2  # the part of MAX_STREAMS that one owner may have
RECONNECT = 3000  # milliseconds

log = structlog.get_logger()


class Shown(NamedTuple):
    """The moving part of an attempt's page, in a language."""

    attempt: int
    language: str


class Sight(NamedTuple):
    mark: str  # changes with each move
    is_over: bool


class Stream:
    """One open page. It takes no place of other connections, and ends when the server stops.

    A page that reads slowly gets only the latest message.
    """

    def __init__(self, shown: Shown, owner: int, session: str, mark: str) -> None:
        self.shown = shown
        self.owner = owner
        self.session = session
        self.mark = mark
        self.message = b""
        self.is_ended = False
        self.moved = asyncio.Event()

    def tell(self, message: bytes, sight: Sight) -> None:
        self.mark = sight.mark
        self.message = message
        self.is_ended = sight.is_over
        self.moved.set()

    def end(self, _refusal: object = None) -> None:
        self.is_ended = True
        self.moved.set()


def seen(attempts: Collection[int], digests: Collection[str]) -> tuple[dict[int, Sight], set[str]]:
    """Return the sights of the attempts, and the digests of the sessions that have not ended."""
    try:
        events = IssuanceEvent.objects.filter(issuance=OuterRef("pk")).order_by("-pk")
        rows = Issuance.objects.filter(pk__in=attempts, certificate__retired_at=None)
        rows = rows.annotate(last_event=Subquery(events.values("pk")[:1]))
        found = rows.only("state", "waits_for", "servers")
        marks = {each: mark_of(each, each.last_event or 0) for each in found}  # type: ignore[attr-defined]
        sights = {each.pk: Sight(mark, not each.is_open) for each, mark in marks.items()}
        return sights, sessions.open_of(digests)
    finally:
        connections.close_all()


def rendered(wanted: Collection[Shown]) -> dict[Shown, bytes]:
    """Return the message of each part."""
    set_script_prefix(f"{settings.URL_PREFIX}/")
    try:
        rows = Issuance.objects.select_related("account", "certificate")
        attempts = rows.in_bulk({each.attempt for each in wanted})
        return {
            each: message(attempts[each.attempt], each.language)
            for each in wanted
            if each.attempt in attempts
        }
    finally:
        connections.close_all()


def message(attempt: Issuance, language: str) -> bytes:
    with translation.override(language):
        context = facts(attempt.certificate, attempt) | {"now": clock.now()}
        part = render_to_string(f"dashboard/{AttemptPart.template}", context)
    data = "".join(f"data: {line}\n" for line in part.splitlines())
    return f"id: {context['mark']}\nevent: moved\n{data}\n".encode()


OVER = b"event: over\ndata:\n\n"


class Watch:
    """The streams of one event loop."""

    def __init__(self) -> None:
        self.streams: dict[Shown, list[Stream]] = defaultdict(list)
        self.rendered_at: dict[Shown, float] = {}
        self.owners: Counter[int] = Counter()
        self.task: asyncio.Task[None] | None = None

    def join(self, stream: Stream) -> None:
        self.owners[stream.owner] += 1
        self.streams[stream.shown].append(stream)
        self.rendered_at.setdefault(stream.shown, asyncio.get_running_loop().time())
        if not self.task or self.task.done():
            self.task = asyncio.create_task(self.run())

    def leave(self, stream: Stream) -> None:
        self.owners[stream.owner] -= 1
        own = self.streams[stream.shown]
        own.remove(stream)
        if not own:
            del self.streams[stream.shown], self.rendered_at[stream.shown]

    async def run(self) -> None:
        """Look at the attempts of all streams, until there is no stream."""
        while self.streams:
            try:
                await self.look()
            except Exception as exc:  # any error of the database; the next look is soon
                log.warning("progress.unread", error=type(exc).__name__)
            await asyncio.sleep(LOOK_EVERY)

    async def look(self) -> None:
        """Send each part that has changed. End the streams without a session or an attempt."""
        watched = [each for own in self.streams.values() for each in own]
        attempts = {each.shown.attempt for each in watched}
        digests = {each.session for each in watched}
        sights, open_sessions = await asyncio.to_thread(seen, attempts, digests)
        for each in watched:
            if each.session not in open_sessions or each.shown.attempt not in sights:
                each.end()
        now = asyncio.get_running_loop().time()
        stale = {shown for shown, at in self.rendered_at.items() if now - at >= RENDER_EVERY}
        telling = [
            each
            for each in watched
            if not each.is_ended
            and (each.shown in stale or differs(each, sights[each.shown.attempt]))
        ]
        if not telling:
            return
        messages = await asyncio.to_thread(rendered, {each.shown for each in telling})
        for each in telling:
            sight = sights[each.shown.attempt]
            if each.shown in messages:
                end = OVER if sight.is_over else b""
                each.tell(messages[each.shown] + end, sight)
        for shown in messages.keys() & self.rendered_at.keys():
            self.rendered_at[shown] = now


def differs(stream: Stream, sight: Sight) -> bool:
    return sight.is_over or sight.mark != stream.mark


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, Watch] = WeakKeyDictionary()


def watch() -> Watch:
    """Return the watch of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _watches:
        _watches[loop] = Watch()
    return _watches[loop]


def has_room(owner: int) -> bool:
    """Return whether this process may open one more stream for the owner."""
    most: int = settings.MAX_STREAMS
    of_owner = sum(each.owners[owner] for each in _watches.values())
    of_all = sum(each.owners.total() for each in _watches.values())
    return of_owner < most * MOST_OF_OWNER and of_all < most


async def messages(stream: Stream, state: dict[str, Any]) -> AsyncIterator[bytes]:
    """Yield a message for each move of the attempt.

    `state` is that of the connection.
    """
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + STREAM_ENDS_AFTER
    watch().join(stream)
    state["waiting"] = stream
    try:
        yield f"retry: {RECONNECT}\n\n".encode()
        while loop.time() < ends_at:
            try:
                async with asyncio.timeout(BEAT_EVERY):
                    await stream.moved.wait()
            except TimeoutError:
                yield b": still here\n\n"
                continue
            stream.moved.clear()
            message, stream.message = stream.message, b""
            is_ended = stream.is_ended
            if message:
                yield message
            if is_ended:
                return
    finally:
        watch().leave(stream)
        state.pop("waiting", None)


class AttemptStream(Page):
    """The stream of one attempt. `Last-Event-ID` is the mark of what the browser shows."""

    def get(self, request: HttpRequest, pk: int, attempt_id: int) -> HttpResponseBase:
        attempt = attempt_of(certificate_of(self, pk), attempt_id)
        if not has_room(self.owner.pk):
            return HttpResponse(status=HTTPStatus.NO_CONTENT)  # the page polls instead
        mark = request.headers.get("Last-Event-ID") or request.GET.get("seen", "")
        shown = Shown(attempt.pk, translation.get_language() or "en")
        session = sessions.digest_of(request.session.session_key or "")
        stream = Stream(shown, self.owner.pk, session, mark)
        state = getattr(request, "scope", {}).get("state", {})
        response = StreamingHttpResponse(messages(stream, state), content_type="text/event-stream")
        response["X-Accel-Buffering"] = "no"  # nginx passes each message on at once
        response["Cache-Control"] = "no-store"
        return response
