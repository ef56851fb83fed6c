"""Limits of client connections: time for the head, speed of the reader, number of connections.

uvicorn has no limit for the first two. certctrl.bodylimit limits the time of a body. uvicorn's
keep-alive limits the time between two requests. The time of a view has no limit.
"""

import asyncio
import logging
from typing import Any

import h11
import structlog
from django.conf import settings
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# Seconds until the last header. They start with the connection, or with the first byte of the next
# request.
HEAD_WITHIN = 20.0
READER_EVERY = 20.0  # seconds between two checks of a response that is being read
MOST_PARTS = 1000  # frames of one message; an empty one has no size that websockets could count
READER_SPEED = 4096  # bytes per second that a reader must take
# RFC 9110, section 15.5.9.
LATE = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)

UNREADABLE = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

log = structlog.get_logger()
QUIET = logging.getLogger("certctrl.websocket")
QUIET.setLevel(logging.ERROR)


class WatchedReader:
    """A check of how fast a client reads. Call `watch_reader` when more is written or read."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    client: tuple[str, int] | None
    reader_timer: asyncio.TimerHandle | None = None
    unread = 0  # bytes that were unread at the last check

    def watch_reader(self) -> None:
        """Start the count again, because more was written or most was read."""
        self.forget_reader()
        self.unread = self.transport.get_write_buffer_size()
        if self.unread:
            self.reader_timer = self.loop.call_later(READER_EVERY, self.check_reader)

    def forget_reader(self) -> None:
        if self.reader_timer:
            self.reader_timer.cancel()
        self.reader_timer = None

    def check_reader(self) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread and self.unread - unread < READER_SPEED * READER_EVERY:
            log.info("connection.closed", why="slow reader", client=self.client and self.client[0])
            self.transport.abort()
        else:
            self.watch_reader()


class PatientProtocol(WatchedReader, H11Protocol):
    """uvicorn's connection with a limit for the head, for slow readers, and for connections.

    The limit for connections is MAX_CONNECTIONS.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.head_timer: asyncio.TimerHandle | None = None
        self.waits_since = self.loop.time()
        self.await_head()
        self.make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self.forget_head()
        self.forget_reader()
        super().connection_lost(exc)

    # --- The head of a request ---

    def await_head(self) -> None:
        if self.head_timer is None:
            self.head_timer = self.loop.call_later(HEAD_WITHIN, self.head_is_late)

    def forget_head(self) -> None:
        if self.head_timer:
            self.head_timer.cancel()
        self.head_timer = None

    def handle_events(self) -> None:
        super().handle_events()
        if self.conn.their_state is not h11.IDLE:
            self.forget_head()
        elif self.conn.trailing_data[0]:
            # A new head has begun, and uvicorn's keep-alive no longer counts.
            self.await_head()

    def head_is_late(self) -> None:
        begun = bool(self.conn.trailing_data[0])
        self.part(LATE if begun else b"", "no head")

    # --- The reader of a response ---

    def pause_writing(self) -> None:
        super().pause_writing()
        self.watch_reader()

    def on_response_complete(self) -> None:
        self.waits_since = self.loop.time()
        super().on_response_complete()
        self.watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.watch_reader()

    # --- Room for others ---

    @property
    def waiting(self) -> Any:
        """Return what waits for a signal here, or None.

        It is a device with a token, or a page with a session. MAX_DEVICES and MAX_STREAMS limit
        their numbers.
        """
        return self.scope and self.scope["state"].get("waiting")

    def shutdown(self) -> None:
        super().shutdown()
        if self.waiting:
            self.waiting.end(None)

    @property
    def is_waiting(self) -> bool:
        """Return whether the client must act next. It owes a head or the rest of a body."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def make_room(self) -> None:
        """When over the limit, close the connection that has waited longest for its client.

        Such a client is idle or sends slowly. Refusing the newest client instead would be wrong. A
        few hundred silent connections could then lock everybody out.
        """
        connections: Any = self.server_state.connections
        if len(connections) <= settings.MAX_CONNECTIONS:
            return
        others = [each for each in connections if not each.waiting]
        if len(others) <= settings.MAX_CONNECTIONS:
            return
        waiting = [each for each in others if each is not self and each.is_waiting]
        if waiting:
            min(waiting, key=lambda each: each.waits_since).part(b"", "no room")
        else:
            self.part(FULL, "no room")

    def part(self, message: bytes, why: str) -> None:
        """Close the connection at once. Send `message` first when no other bytes are unsent."""
        log.info("connection.closed", why=why, client=self.client and self.client[0])
        self.server_state.connections.discard(self)
        if message and not self.transport.get_write_buffer_size():
            self.transport.write(message)
            self.transport.close()
        else:
            self.transport.abort()


class DeviceProtocol(WatchedReader, WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, with a limit for slow readers.

    uvicorn logs the query of a handshake, which may have a token. So only its errors are logged.
    """

    is_waiting = False  # for its client: it is being authenticated, or it is a device

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = self.conn.logger = QUIET

    @property
    def waiting(self) -> bool:
        return self.handshake_complete

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # A head that websockets refuses, for example with a body or with a line of more than 8 KiB.
        # uvicorn neither answers it nor closes the connection.
        if self.conn.handshake_exc and not self.handshake_initiated:
            log.info("connection.closed", why="no handshake", client=self.client and self.client[0])
            self.transport.write(b"".join(self.conn.data_to_send()) or UNREADABLE)
            self.transport.close()

    def handle_cont(self, event: Any) -> None:
        super().handle_cont(event)
        if len(self.frames) > MOST_PARTS:
            self.transport.abort()

    def pause_writing(self) -> None:
        """Read nothing while the device does not read, so that its pings do not fill the memory."""
        super().pause_writing()
        self.transport.pause_reading()
        self.watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()
        self.watch_reader()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True  # else uvicorn logs an error for each refusal
        if message["type"] == "websocket.close":
            self.watch_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        self.forget_reader()
        super().connection_lost(exc)
