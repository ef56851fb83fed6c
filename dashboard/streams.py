"""Live progress: Server-Sent Events that say that an attempt has moved.

One task in each web process reads the attempts of all open pages. A message has no content. The
page then fetches the part that has changed.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection
from http import HTTPStatus
from typing import Any
from weakref import WeakKeyDictionary

import structlog
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections
from django.db.models import Max
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from certctrl import errors
from dashboard.certificate import certificate_of
from dashboard.page import Page
from issuance.models import Issuance

LOOK_EVERY = 0.5  # seconds between two reads
BEAT_EVERY = 15.0  # seconds between two comments, so that no proxy ends a quiet stream
STREAM_ENDS_AFTER = 600.0  # seconds; the browser then opens the next one
MOST_OF_OWNER = 1 / 2  # the part of MAX_STREAMS that one owner may have
RECONNECT = 3000  # milliseconds

log = structlog.get_logger()
# The last event of an attempt, its state, and the reason of its wait.
Sight = tuple[int, str, str]


class Stream:
    """One open page. It takes no place of other connections, and ends when the server stops."""

    def __init__(self, attempt: int, owner: int) -> None:
        self.attempt = attempt
        self.owner = owner
        self.sights: asyncio.Queue[Sight | None] = asyncio.Queue()

    def end(self, _refusal: object) -> None:
        self.sights.put_nowait(None)


def seen(attempts: Collection[int]) -> dict[int, Sight]:
    """Return what there is to see of these attempts, by one query."""
    try:
        rows = Issuance.objects.filter(pk__in=attempts).annotate(last=Max("events__pk"))
        found = rows.values_list("pk", "last", "state", "waits_for")
        return {pk: (last or 0, state, waits_for) for pk, last, state, waits_for in found}
    finally:
        connections.close_all()


class Watch:
    """The streams of one event loop."""

    def __init__(self) -> None:
        self.streams: dict[int, list[Stream]] = defaultdict(list)
        self.sights: dict[int, Sight] = {}
        self.owners: Counter[int] = Counter()
        self.task: asyncio.Task[None] | None = None

    def join(self, stream: Stream) -> None:
        self.owners[stream.owner] += 1
        self.streams[stream.attempt].append(stream)
        if stream.attempt in self.sights:
            stream.sights.put_nowait(self.sights[stream.attempt])
        if not self.task or self.task.done():
            self.task = asyncio.create_task(self.run())

    def leave(self, stream: Stream) -> None:
        self.owners[stream.owner] -= 1
        own = self.streams[stream.attempt]
        own.remove(stream)
        if not own:
            del self.streams[stream.attempt]
            self.sights.pop(stream.attempt, None)

    async def run(self) -> None:
        """Read the attempts of all streams, until there is no stream."""
        while self.streams:
            try:
                found = await asyncio.to_thread(seen, list(self.streams))
            except Exception as exc:  # any error of the database; the next read is soon
                log.warning("progress.unread", error=type(exc).__name__)
                found = {}
            for attempt, sight in found.items():
                if attempt in self.streams and self.sights.get(attempt) != sight:
                    self.sights[attempt] = sight
                    for stream in self.streams[attempt]:
                        stream.sights.put_nowait(sight)
            await asyncio.sleep(LOOK_EVERY)


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


async def messages(stream: Stream, last_seen: int, state: dict[str, Any]) -> AsyncIterator[bytes]:
    """Yield a message for each move of the attempt after the event `last_seen`.

    `state` is that of the connection.
    """
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + STREAM_ENDS_AFTER
    watch().join(stream)
    state["waiting"] = stream
    first = True
    try:
        # The thread of the request waits with the stream, and needs no connection meanwhile.
        await sync_to_async(connections.close_all)()
        yield f"retry: {RECONNECT}\n\n".encode()
        while loop.time() < ends_at:
            try:
                async with asyncio.timeout(BEAT_EVERY):
                    sight = await stream.sights.get()
            except TimeoutError:
                yield b": still here\n\n"
                continue
            if sight is None:
                return
            event, reached, _waits_for = sight
            is_over = reached not in Issuance.OPEN
            # The page itself has shown the first sight, unless something has happened since.
            if not first or event > last_seen or is_over:
                yield f"id: {event}\nevent: moved\ndata:\n\n".encode()
            first = False
            if is_over:
                yield b"event: over\ndata:\n\n"
                return
    finally:
        watch().leave(stream)
        state.pop("waiting", None)


class AttemptStream(Page):
    """The stream of one attempt. `Last-Event-ID` says what the browser has seen."""

    def get(self, request: HttpRequest, pk: int, attempt_id: int) -> HttpResponseBase:
        certificate = certificate_of(self, pk)
        attempt = certificate.issuances.filter(pk=attempt_id).first()
        if not attempt:
            raise errors.NotFound("There is no such attempt.")
        text = request.headers.get("Last-Event-ID") or request.GET.get("seen", "")
        last_seen = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
        if not has_room(self.owner.pk):
            return HttpResponse(status=HTTPStatus.NO_CONTENT)  # the page polls instead
        stream = Stream(attempt.pk, self.owner.pk)
        state = getattr(request, "scope", {}).get("state", {})
        response = StreamingHttpResponse(
            messages(stream, last_seen, state), content_type="text/event-stream"
        )
        response["X-Accel-Buffering"] = "no"  # nginx passes each message on at once
        response["Cache-Control"] = "no-store"
        return response
