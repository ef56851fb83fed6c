"""Live progress: Server-Sent Events that say that an attempt has moved.

One task in each web process reads the attempts of all open pages. A message has no content. The
page then fetches the part that has changed.
"""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection
from http import HTTPStatus
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
# The part of the connections of a process that streams may have, and those of one owner.
MOST, MOST_OF_OWNER = 3 / 4, 1 / 2
RECONNECT = 3000  # milliseconds

log = structlog.get_logger()
# The last event of an attempt, its state, and the reason of its wait.
Sight = tuple[int, str, str]


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
        self.streams: dict[int, list[asyncio.Queue[Sight]]] = defaultdict(list)
        self.sights: dict[int, Sight] = {}
        self.owners: Counter[int] = Counter()
        self.task: asyncio.Task[None] | None = None

    def join(self, attempt: int, owner: int) -> asyncio.Queue[Sight]:
        queue: asyncio.Queue[Sight] = asyncio.Queue()
        self.owners[owner] += 1
        self.streams[attempt].append(queue)
        if attempt in self.sights:
            queue.put_nowait(self.sights[attempt])
        if not self.task or self.task.done():
            self.task = asyncio.create_task(self.run())
        return queue

    def leave(self, attempt: int, owner: int, queue: asyncio.Queue[Sight]) -> None:
        self.owners[owner] -= 1
        self.streams[attempt].remove(queue)
        if not self.streams[attempt]:
            del self.streams[attempt]
            self.sights.pop(attempt, None)

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
                    for queue in self.streams[attempt]:
                        queue.put_nowait(sight)
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
    most: int = settings.MAX_CONNECTIONS
    of_owner = sum(each.owners[owner] for each in _watches.values())
    of_all = sum(each.owners.total() for each in _watches.values())
    return of_owner < most * MOST_OF_OWNER and of_all < most * MOST


async def messages(attempt: int, owner: int, last_seen: int) -> AsyncIterator[bytes]:
    """Yield a message for each move of the attempt after the event `last_seen`."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + STREAM_ENDS_AFTER
    queue = watch().join(attempt, owner)
    first = True
    try:
        # The thread of the request waits with the stream, and needs no connection meanwhile.
        await sync_to_async(connections.close_all)()
        yield f"retry: {RECONNECT}\n\n".encode()
        while loop.time() < ends_at:
            sight = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_EVERY):
                    sight = await queue.get()
            if sight is None:
                yield b": still here\n\n"
                continue
            event, state, _waits_for = sight
            is_over = state not in Issuance.OPEN
            # The page itself has shown the first sight, unless something has happened since.
            if not first or event > last_seen or is_over:
                yield f"id: {event}\nevent: moved\ndata:\n\n".encode()
            first = False
            if is_over:
                yield b"event: over\ndata:\n\n"
                return
    finally:
        watch().leave(attempt, owner, queue)


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
        response = StreamingHttpResponse(
            messages(attempt.pk, self.owner.pk, last_seen), content_type="text/event-stream"
        )
        response["X-Accel-Buffering"] = "no"  # nginx passes each message on at once
        response["Cache-Control"] = "no-store"
        return response
