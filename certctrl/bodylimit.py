"""Refuses request bodies that are too long or too slow, chunked bodies too.

Django's ASGI handler would write a chunked body of any size to disk before the first view runs. DRF
would then read a body without a Content-Length as empty. An unknown client may send only as much as
a login needs.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings

from certctrl import clock, errors
from certctrl.errors import ApiError
from certctrl.errorshape import error_body, unexpected
from certctrl.jsonbody import too_large
from certctrl.language import in_language_of_scope
from certctrl.sentences import sentence as _

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

# Bytes of a refused body that are still read. A client that is cut off while it sends never sees
# the response.
DRAIN = 64 * 1024 * 1024
STRANGERS = 64 * 1024  # bytes that an unknown client may send
WITHIN = 20.0  # seconds that any body may take
SPEED = 16 * 1024  # bytes that add one second to the time


class BodyLimit:
    """An ASGI application around another. It passes the body on, or responds with 413 or 408.

    The errors have the shape of docs/reference/api.md. `is_known(scope)` runs on a thread. It
    returns whether the request has a valid credential.
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
        except ApiError as refusal:
            return await refuse(scope, timed, send, refusal)
        pending = [first]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        return await self.app(with_length(scope, first), replay, send)

    async def read_body(self, scope: Message, receive: "Timed") -> Message:
        """Return the whole body as one message, or the disconnect of the client.

        Raise TooLarge, TooSlow or Unavailable.
        """
        limit = await self.limit_of(scope, said_length(scope), STRANGERS)
        if said_length(scope) > limit:
            raise too_large(limit)
        body = b""
        while receive.more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return message
            body += message.get("body", b"")
            limit = await self.limit_of(scope, len(body), limit)
            if len(body) > limit:
                raise too_large(limit)
        return {"type": "http.request", "body": body, "more_body": False}

    async def limit_of(self, scope: Message, length: int, limit: int) -> int:
        """Return the number of bytes that this client may send.

        The client is authenticated only when the number depends on it. Raise Unavailable.
        """
        most: int = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        if length <= limit or limit >= most:
            return limit
        try:
            return (
                most if await sync_to_async(self.is_known, thread_sensitive=False)(scope) else limit
            )
        except Exception as exc:  # any error of the database or the cache
            raise unexpected(exc) from exc


class Timed:
    """The messages of the client, with a limit on the time spent waiting for them.

    The client has WITHIN seconds, and one second more for each SPEED bytes. Raises TooSlow.
    """

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.left = WITHIN
        self.is_refused = False  # a body that is discarded earns no time
        self.has_begun = False
        self.more = True  # the client may still send

    async def __call__(self) -> Message:
        began = clock.monotonic()
        self.has_begun = True
        try:
            message = await asyncio.wait_for(self.receive(), self.left)
        except TimeoutError:
            raise errors.TooSlow(
                _("The body did not arrive in time. Send it again over a faster connection.")
            ) from None
        self.left -= clock.monotonic() - began
        self.more = message.get("more_body", False)
        if not self.is_refused:
            self.left += len(message.get("body", b"")) / SPEED
        return message


def said_length(scope: Message) -> int:
    said = dict(scope["headers"]).get(b"content-length", b"")
    return int(said) if said.isdigit() else 0


def with_length(scope: Message, first: Message) -> Message:
    """Return the scope with the counted length, so that a chunked body has a Content-Length."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    length = len(first.get("body", b""))
    if length or len(headers) < len(scope["headers"]):
        headers.append((b"content-length", str(length).encode()))
    return {**scope, "headers": headers}


async def refuse(scope: Message, receive: Timed, send: Send, refusal: ApiError) -> None:
    """Send the error, then read what the client still sends. Then the connection is closed."""
    with in_language_of_scope(scope):
        body = json.dumps(error_body(refusal)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))  # not all of the body may be read
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    # A client that sends Expect has sent no body yet (RFC 9110, section 10.1.1).
    if receive.has_begun or b"expect" not in dict(scope["headers"]):
        await drain(receive)
    await send({"type": "http.response.body", "body": b""})


async def drain(receive: Timed) -> None:
    """Read and discard up to DRAIN bytes."""
    left = DRAIN
    receive.is_refused = True
    with contextlib.suppress(errors.TooSlow):
        while receive.more and left > 0:
            message = await receive()
            left -= len(message.get("body", b""))
