"""The WebSocket of a device, an ASGI application beside Django's.

It sends the same log as the polls. Each connection is one coroutine. The limits of size, speed and
number are in certctrl.connections and devices.hub.
"""

import asyncio
import contextlib
import json
import secrets
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import structlog
from django.conf import settings

from certctrl import errors
from certctrl.bodylimit import Message, Receive, Send
from certctrl.errors import ApiError
from certctrl.errorshape import error_body, error_headers, unexpected
from certctrl.language import in_language_of_scope
from certctrl.sentences import sentence as _
from devices import tokens
from devices.agentchallenges import Sending, ack
from devices.authentication import BEARER, device_of, token_of
from devices.hub import Waiter, hub, in_thread
from devices.signals import MOST, START, Cursor, Line, Trimmed
from devices.tokens import AccessClaims

PATHS = ("/api/websocket", "/api/tunnel")
HELLO_WITHIN = 20.0  # seconds for the response of the device to the hello
SILENT = 90.0  # seconds without a message; agents send a ping every 20 seconds
MOST_MESSAGES = 3000  # in a minute
# RFC 6455, section 7.4.1.
UNREADABLE = 1003
POLICY = 1008
REPLACED = 1013

log = structlog.get_logger()
ACKS: set[asyncio.Task[None]] = set()  # that are being noted; they outlast their connections


async def application(scope: Message, receive: Receive, send: Send) -> None:
    """Serve one connection from its handshake to its end."""
    await receive()  # websocket.connect
    try:
        claims = claims_of(scope)
        await in_thread(lambda: device_of(claims))
        socket = DeviceSocket(claims, receive, send)
        hub().join(socket)
    except ApiError as refusal:
        return await refuse(scope, send, refusal)
    except Exception as exc:  # any error of the database
        return await refuse(scope, send, unexpected(exc))
    try:
        await socket.run()
    finally:
        socket.leave()


def claims_of(scope: Message) -> AccessClaims:
    """Return the claims of the token. Raise NotFound, Unauthorized, Forbidden or Invalid."""
    path = scope["path"].removeprefix(settings.URL_PREFIX)
    base = next((each for each in PATHS if path == each or path.startswith(f"{each}/")), None)
    if base is None:
        raise errors.NotFound(
            _("There is no WebSocket at this path. Devices use %(paths)s/<id>.", paths=PATHS[0])
        )
    query = parse_qs(scope["query_string"].decode("ascii", "replace"))
    header = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
    is_bearer = BEARER.match(header) is not None
    token = query["token"][-1] if "token" in query and not is_bearer else token_of(header)
    claims = tokens.read_access_token(token)
    asked = path.removeprefix(base).strip("/") or query.get("device_id", [""])[-1]
    if asked != str(claims.device_id):
        raise errors.Forbidden(
            _("The access token belongs to another device than the path names. Use your own id.")
        )
    return claims


async def refuse(scope: Message, send: Send, refusal: ApiError) -> None:
    """Refuse the handshake with the error that the API would send."""
    with in_language_of_scope(scope):
        body = json.dumps(error_body(refusal)).encode()
    headers = {"Content-Type": "application/json"} | error_headers(refusal)
    await send(
        {
            "type": "websocket.http.response.start",
            "status": refusal.status,
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "websocket.http.response.body", "body": body})


class Misbehaves(Exception):
    """The device sent what it may not send. `code` closes the connection."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why


class DeviceSocket(Waiter):
    """One connection. It waits in the hub once the device has answered the hello."""

    is_live = True

    def __init__(self, claims: AccessClaims, receive: Receive, send: Send) -> None:
        super().__init__(claims.device_id, claims.family, None)
        self.receive = receive
        self.send = send
        self.connection_id = secrets.token_hex(8)
        self.is_greeted = False
        self.is_closed = False
        self.senders: set[asyncio.Task[None]] = set()
        self.sent: dict[str, Sending] = {}  # live signals without an ack, by their ids
        self.told: set[str] = set()  # the ids of live signals that were sent
        self.reached = START  # the last signal of the log that was sent
        self.minute = 0
        self.messages = 0

    async def run(self) -> None:
        await self.send({"type": "websocket.accept"})
        try:
            await self.say({"type": "hello", "connection_id": self.connection_id})
            async with asyncio.timeout(HELLO_WITHIN):
                while not self.is_greeted:
                    if not await self.next_message():
                        return
            while await self.next_message():
                pass
        except TimeoutError:
            await self.close(POLICY, "silent")
        except Misbehaves as exc:
            await self.close(exc.code, exc.why)

    def leave(self) -> None:
        hub().leave(self)
        for sender in self.senders:
            sender.cancel()

    def spawn(self, act: Coroutine[Any, Any, None]) -> None:
        sender = asyncio.create_task(act)
        self.senders.add(sender)
        sender.add_done_callback(self.senders.discard)

    async def say(self, message: dict[str, Any]) -> None:
        if not self.is_closed:
            await self.send({"type": "websocket.send", "text": json.dumps(message)})

    async def close(self, code: int, why: str) -> None:
        self.is_closed = True
        log.info("device.closed", device=self.device_id, why=why)
        with contextlib.suppress(OSError):
            await self.send({"type": "websocket.close", "code": code, "reason": why})

    # --- Messages of the device ---

    async def next_message(self) -> bool:
        """Take one message. Return False at the end. Raise TimeoutError or Misbehaves."""
        async with asyncio.timeout(SILENT):
            message = await self.receive()
        if message["type"] != "websocket.receive":
            return False
        self.count_message()
        await self.take(parsed(message.get("text")))
        return True

    def count_message(self) -> None:
        minute = int(asyncio.get_running_loop().time() / 60)
        self.messages = 1 if minute != self.minute else self.messages + 1
        self.minute = minute
        if self.messages > MOST_MESSAGES:
            raise Misbehaves(POLICY, "too many messages")

    async def take(self, message: dict[str, Any]) -> None:
        match message.get("name", message.get("type")):
            case "ping":
                await self.say({"type": "pong", "ts": message.get("ts")})
            case "lifecycle.ping":
                given = message.get("payload")
                payload = given if isinstance(given, dict) else {}
                await self.say({"type": "event", "name": "lifecycle.pong", "payload": payload})
            case "lifecycle.hello_ack" if not self.is_greeted:
                self.is_greeted = True
                self.wait_from(cursor_of(message.get("resume_token")))
                hub().look([self.device_id])
            case "updates.ack" if sending := self.sent.pop(str(message.get("id")), None):
                noting = asyncio.create_task(note_ack(sending))
                ACKS.add(noting)
                noting.add_done_callback(ACKS.discard)

    # --- Signals for the device ---

    def wait_from(self, cursor: Cursor) -> None:
        self.cursor, self.reached = cursor, max(START, cursor)
        if self.missed:
            hub().look([self.device_id])

    def hear(self, lines: Sequence[Line]) -> None:
        self.cursor = None
        self.missed = len(lines) == MOST
        self.spawn(self.tell(lines))

    async def tell(self, lines: Sequence[Line]) -> None:
        with contextlib.suppress(OSError):  # the device has left
            for line in lines:
                await self.say(event_of(line, line.cursor))
            self.wait_from(lines[-1].cursor)

    def hear_live(self, sendings: Sequence[Sending]) -> None:
        due = {str(each.line.cursor): each for each in sendings}
        new = {key: each for key, each in due.items() if key not in self.told}
        self.told = set(due)
        if new:
            self.sent |= new
            self.spawn(self.tell_live([each.line for each in new.values()]))

    async def tell_live(self, lines: Sequence[Line]) -> None:
        with contextlib.suppress(OSError):
            for line in lines:
                await self.say(event_of(line, self.reached))

    def resync(self, trimmed: Trimmed) -> None:
        self.hear([trimmed.line])

    def end(self, refusal: ApiError | None) -> None:
        self.cursor = None
        code, why = (POLICY, refusal.what) if refusal else (REPLACED, "a newer connection is open")
        self.spawn(self.close(code, why))


async def note_ack(sending: Sending) -> None:
    try:
        await in_thread(partial(ack, sending))
    except Exception:  # any error of the database
        log.exception("device.ack_lost", device=sending.device_id)


def parsed(text: str | None) -> dict[str, Any]:
    """Return the JSON object of a message. Raise Misbehaves."""
    try:
        message = json.loads(text or "")
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise Misbehaves(UNREADABLE, "a message is a JSON object")
    return message


def cursor_of(token: Any) -> Cursor:
    """Return the cursor that the device resumes from. One that cannot be read is in no log."""
    if token is None or token == "":
        return START
    try:
        return Cursor.parsed(str(token))
    except errors.Invalid:
        return Cursor(-1, -1)


def event_of(line: Line, reached: Cursor) -> dict[str, Any]:
    """Return the message with a signal. The device resumes after `reached`."""
    return {
        "type": "event",
        "name": "updates.signal",
        "id": str(line.cursor),
        "resume_token": str(reached),
        "ts_ms": line.ts_ms,
        "payload": line.shown,
    }
