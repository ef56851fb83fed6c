"""A device that waits: its side of one ASGI connection."""

import asyncio
import json
from typing import Any

from devices import longpoll, signals, websocket
from devices.hub import hub
from tests.patience import LIMIT

UPDATES = "/apiv1/devices/self/updates"


async def within(awaitable: Any) -> Any:
    """Return the result. Fail after LIMIT seconds."""
    return await asyncio.wait_for(awaitable, LIMIT)


async def until(check: Any) -> None:
    """Let other tasks run until the check is true."""

    async def turns() -> None:
        while not check():
            await asyncio.sleep(0)

    await within(turns())


def emit(device_id: int, number: int) -> None:
    """Emit a signal, and wake the hub as a message of Redis would."""
    signals.emit([device_id], "cert.updated", {"cert_id": number})
    hub().look([device_id])


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {token}".encode())] if token else []


class Polling:
    """One poll that waits. `answer` is (status, body, headers) once it has come."""

    def __init__(self, token: str, query: str = "wait=30", etag: str = "") -> None:
        self.scope = {
            "type": "http",
            "method": "GET",
            "path": UPDATES,
            "query_string": query.encode(),
            "headers": [*bearer(token), (b"if-none-match", etag.encode())],
            "state": {},
        }
        self.leaves = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        self.task = asyncio.create_task(longpoll.application(self.scope, self.receive, self.send))

    async def receive(self) -> dict[str, Any]:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def answer(self) -> tuple[int, Any, dict[str, str]]:
        await within(self.task)
        start, body = self.sent
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return start["status"], json.loads(body["body"] or "null"), headers


class Socket:
    """One WebSocket. The messages of the server are in `inbox`."""

    def __init__(self, device_id: Any, token: str, path: str = "", query: str = "") -> None:
        self.scope = {
            "type": "websocket",
            "path": path or f"/api/websocket/{device_id}",
            "query_string": query.encode(),
            "headers": bearer(token),
        }
        self.outbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.outbox.put_nowait({"type": "websocket.connect"})
        self.task = asyncio.create_task(
            websocket.application(self.scope, self.outbox.get, self.inbox.put)
        )

    async def next(self) -> dict[str, Any]:
        """Return the next ASGI message of the server."""
        return await within(self.inbox.get())

    async def read(self) -> Any:
        """Return the next JSON message of the server."""
        message = await self.next()
        assert message["type"] == "websocket.send", message
        return json.loads(message["text"])

    def say(self, message: Any) -> None:
        text = message if isinstance(message, str) else json.dumps(message)
        self.outbox.put_nowait({"type": "websocket.receive", "text": text})

    async def greet(self, resume_token: Any = None) -> None:
        """Accept the hello. The server then sends what follows `resume_token`."""
        assert (await self.next())["type"] == "websocket.accept"
        hello = await self.read()
        assert hello["type"] == "hello"
        ack = {
            "type": "event",
            "name": "lifecycle.hello_ack",
            "payload": {"connection_id": hello["connection_id"]},
            "ts_ms": 12345,
        }
        self.say(ack if resume_token is None else ack | {"resume_token": resume_token})

    async def refusal(self) -> tuple[int, Any]:
        """Return the status and the error of a refused handshake."""
        start, body = await self.next(), await self.next()
        await within(self.task)
        return start["status"], json.loads(body["body"])["error"]

    async def close_code(self) -> int:
        message = await self.next()
        assert message["type"] == "websocket.close", message
        self.leave()
        await within(self.task)
        return int(message["code"])

    def leave(self) -> None:
        self.outbox.put_nowait({"type": "websocket.disconnect", "code": 1000})
