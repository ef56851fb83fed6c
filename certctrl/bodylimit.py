"""No request body that is too long or too slow gets further than here, whether it says its length or comes in chunks.

Django's ASGI handler would write a chunked body of any size to disk before the first view sees it, and DRF would then
take a body without a Content-Length for an empty one. More than a log-in needs is kept of nobody whom this server does
not know.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings

from certctrl import clock, errors
from certctrl.errors import Refusal
from certctrl.errorshape import error_body, unexpected
from certctrl.jsonbody import too_large

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

DRAIN = (
    8 * 1024 * 1024
)  # bytes of a refused body that are still read: who is cut off while sending sees no answer
STRANGERS = 64 * 1024  # bytes that anybody may send
WITHIN = 20.0  # seconds that any body may take
SPEED = 16 * 1024  # bytes for which it may take a second more


class BodyLimit:
    """An ASGI application around another: answers 413 or 408 in the contract's shape, or hands on the body.

    `is_known(scope)` says, on a thread, whether a request has a valid credential.
    """

    def __init__(self, app: App, is_known: Callable[[Message], bool]) -> None:
        self.app = app
        self.is_known = is_known

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        timed = Timed(receive)
        try:
            first = await self.read_body(scope, timed)
        except Refusal as refusal:
            return await refuse(send, refusal)
        pending = [first]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        return await self.app(with_length(scope, first), replay, send)

    async def read_body(self, scope: Message, receive: "Timed") -> Message:
        """The whole body as one message, or the client's going away. Raises TooLarge, TooSlow or Unavailable."""
        limit = await self.limit_of(scope, said_length(scope), STRANGERS)
        if said_length(scope) > limit:
            if b"expect" not in dict(
                scope["headers"]
            ):  # who asks before sending has sent nothing (RFC 9110, 10.1.1)
                await drain(receive)
            raise too_large(limit)
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return message
            body += message.get("body", b"")
            more = message.get("more_body", False)
            limit = await self.limit_of(scope, len(body), limit)
            if len(body) > limit:
                await drain(receive, more)
                raise too_large(limit)
        return {"type": "http.request", "body": body, "more_body": False}

    async def limit_of(self, scope: Message, length: int, limit: int) -> int:
        """The bytes that this client may send. Who it is is asked only when they matter. Raises Unavailable."""
        most: int = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        if not limit < length <= most:
            return limit
        try:
            return (
                most if await sync_to_async(self.is_known, thread_sensitive=False)(scope) else limit
            )
        except Exception as exc:  # whatever the database's or the cache's client raises
            raise unexpected(exc) from exc


class Timed:
    """The client's messages, within WITHIN and a second more for each SPEED bytes. Only waiting for the client counts.
    Raises TooSlow."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.left = WITHIN
        self.is_refused = False  # a body that is read to be forgotten earns no time

    async def __call__(self) -> Message:
        began = clock.monotonic()
        try:
            message = await asyncio.wait_for(self.receive(), self.left)
        except TimeoutError:
            raise errors.TooSlow(
                "The body did not arrive in time; send it again, faster."
            ) from None
        self.left -= clock.monotonic() - began
        if not self.is_refused:
            self.left += len(message.get("body", b"")) / SPEED
        return message


def said_length(scope: Message) -> int:
    said = dict(scope["headers"]).get(b"content-length", b"")
    return int(said) if said.isdigit() else 0


def with_length(scope: Message, first: Message) -> Message:
    """The scope with the length that was counted, for those who chunked."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    length = len(first.get("body", b""))
    if length or len(headers) < len(scope["headers"]):
        headers.append((b"content-length", str(length).encode()))
    return {**scope, "headers": headers}


async def drain(receive: Timed, more: bool = True) -> None:
    """Read on and forget, a little."""
    left, receive.is_refused = DRAIN, True
    with contextlib.suppress(errors.TooSlow):
        while more and left > 0:
            message = await receive()
            left -= len(message.get("body", b""))
            more = message.get("more_body", False)


async def refuse(send: Send, refusal: Refusal) -> None:
    body = json.dumps(error_body(refusal)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))  # whatever is left of the body is not read
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
