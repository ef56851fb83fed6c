"""Polls that wait for a signal: an ASGI application beside Django's.

The view in devices.api serves the polls that do not wait. Both respond in the same words.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from django.conf import settings
from django.http import QueryDict

from certctrl.bodylimit import Message, Receive, Send
from certctrl.errors import ApiError, Unauthorized
from certctrl.errorshape import error_body, error_headers, refusal_of, unexpected
from certctrl.language import in_language_of_scope
from devices.authentication import device_of, token_of
from devices.hub import Waiter, hub, in_thread
from devices.serializers import UpdatesQuery
from devices.signals import START, Cursor, Line, Trimmed
from devices.tokens import AccessClaims, read_access_token

PATH = "/apiv1/devices/self/updates"


class Poll(NamedTuple):
    """The question of a device. `wait` is in seconds."""

    cursor: Cursor
    limit: int
    wait: int


def poll_of(query: Mapping[str, Any], etag: str | None) -> Poll:
    """Return the poll. Raise Invalid, or ValidationError."""
    parsed = UpdatesQuery(data=query)
    parsed.is_valid(raise_exception=True)
    given = parsed.validated_data
    named = (etag or "").strip()
    text = given["cursor"] if named in ("", '""') else named  # "" is an agent without a cursor
    return Poll(Cursor.parsed(text) if text else START, given["limit"], given["wait"])


def headers_of(cursor: Cursor) -> dict[str, str]:
    return {
        "ETag": f'"{cursor}"',
        "Cache-Control": "no-store",
        "X-Poll-Interval": str(settings.DEVICE_POLL_INTERVAL),
    }


def shown(lines: Sequence[Line]) -> dict[str, Any]:
    return {"cursor": str(lines[-1].cursor), "signals": [each.shown for each in lines]}


def waits(scope: Message) -> bool:
    """Return whether the request is a poll that waits."""
    if scope["method"] != "GET" or scope["path"] != f"{settings.URL_PREFIX}{PATH}":
        return False
    # QueryDict refuses a thousand parameters, which only `answer` can say.
    query = parse_qs(str(scope["query_string"], "latin-1"))
    return query.get("wait", ["0"])[-1] != "0"


async def application(scope: Message, receive: Receive, send: Send) -> None:
    """Answer one poll."""
    try:
        status, body, headers = await answer(scope, receive)
    except Exception as exc:
        refusal = refusal_of(exc) or unexpected(exc)
        with in_language_of_scope(scope):
            body = error_body(refusal)
        status, headers = refusal.status, error_headers(refusal)
    content = b"" if body is None else json.dumps(body).encode()
    if content:
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
    fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": content})


async def answer(scope: Message, receive: Receive) -> tuple[int, Any, dict[str, str]]:
    """Return status, body and headers. Raise any refusal."""
    headers = dict(scope["headers"])
    claims = read_access_token(token_of(headers.get(b"authorization", b"").decode("latin-1")))
    etag = headers.get(b"if-none-match", b"").decode("latin-1")
    poll = poll_of(QueryDict(scope["query_string"]), etag)
    lines = await new_lines(poll, claims, scope, receive)
    if not lines:
        return 204, None, headers_of(poll.cursor)
    return 200, {"data": shown(lines)}, headers_of(lines[-1].cursor)


async def new_lines(
    poll: Poll, claims: AccessClaims, scope: Message, receive: Receive
) -> Sequence[Line]:
    """Return the new signals, or none when the time is over or the device leaves."""
    poller = Poller(claims, poll.cursor)
    leaves = asyncio.ensure_future(until_left(receive))
    leaves.add_done_callback(lambda _: poller.end(None))
    hub().join(poller)
    hub().look([claims.device_id])
    scope["state"]["waiting"] = poller
    try:
        async with asyncio.timeout(poll.wait):
            return (await poller.future)[: poll.limit]
    except TimeoutError:
        return []
    except Unauthorized:
        await in_thread(lambda: device_of(claims))  # it says why, or the session ended just now
        raise
    finally:
        leaves.cancel()
        hub().leave(poller)
        del scope["state"]["waiting"]


async def until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Poller(Waiter):
    """A poll whose future is the new signals, none, or a refusal."""

    def __init__(self, claims: AccessClaims, cursor: Cursor) -> None:
        super().__init__(claims.device_id, claims.family, cursor)
        self.future: asyncio.Future[Sequence[Line]] = asyncio.get_running_loop().create_future()

    def hear(self, lines: Sequence[Line]) -> None:
        if not self.future.done():
            self.future.set_result(lines)

    def resync(self, trimmed: Trimmed) -> None:
        self.end(trimmed.refusal)

    def end(self, refusal: ApiError | None) -> None:
        if refusal is None:
            self.hear([])
        elif not self.future.done():
            self.future.set_exception(refusal)
