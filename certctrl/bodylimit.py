"""No request body over the limit gets further than here, whether it says its length or comes in chunks.

Django's ASGI handler would write a chunked body of any size to disk before the first view sees it, and DRF would then
take a body without a Content-Length for an empty one.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from django.conf import settings

from certctrl.errorshape import error_body
from certctrl.jsonbody import too_large

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

DRAIN = 8 * 1024 * 1024  # bytes of a refused body that are still read: who is cut off while sending sees no answer


class BodyLimit:
    """An ASGI application around another: answers 413 in the contract's shape, or hands the body on, length known."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        first = await read_body(scope, receive)
        if first is None:
            return await refuse(send)
        pending = [first]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        return await self.app(with_length(scope, first), replay, send)


async def read_body(scope: Message, receive: Receive) -> Message | None:
    """The whole body as one message (or the client's going away); None when it is over the limit."""
    limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    if said_length(scope) > limit:
        if b"expect" not in dict(scope["headers"]):  # who asks before sending has sent nothing (RFC 9110, 10.1.1)
            await drain(receive)
        return None
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return message
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > limit:
            await drain(receive, more)
            return None
    return {"type": "http.request", "body": body, "more_body": False}


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


async def drain(receive: Receive, more: bool = True) -> None:
    """Read on and forget, a little."""
    left = DRAIN
    while more and left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        more = message.get("more_body", False)


async def refuse(send: Send) -> None:
    refusal = too_large()
    body = json.dumps(error_body(refusal)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))  # whatever is left of the body is not read
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
