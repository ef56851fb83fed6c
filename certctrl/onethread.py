"""Django's ASGI handler, with one change to a thread for each request."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.conf import settings
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.core.signals import request_started
from django.db import close_old_connections
from django.http import FileResponse, HttpResponseBase
from django.urls import set_script_prefix

Scope = dict[str, Any]
Receive = Callable[[], Coroutine[Any, Any, Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class OneThread(ASGIHandler):
    """A handler that serves a request in one call of one thread, from its first signal to its last.

    Middleware and views are synchronous. Django would start a thread for each request, and change
    between it and the event loop several times. A new thread needs a new wrapper of the database
    connection. Context variables are of one request, so a kept thread passes none on.
    """

    def __init__(self) -> None:
        super().__init__()
        # Threads end only with the process. One is started only while all others are in views.
        self.threads = ThreadPoolExecutor(settings.MAX_CONNECTIONS, "request")

    def load_middleware(self, is_async: bool = False) -> None:
        super().load_middleware(is_async=False)

    async def __call__(  # type: ignore[override]  # the stubs have any awaitable
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if scope["type"] != "http":  # uvicorn asks whether there is a lifespan
            raise ValueError(f"{scope['type']} is not served here")
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        with body:
            serve = sync_to_async(self.serve, thread_sensitive=False, executor=self.threads)
            response = await serve(scope, body)
            if response.streaming:
                await self.stream(response, receive, send)
            else:
                await self.send_response(response, send)

    def serve(self, scope: Scope, body: IO[bytes]) -> HttpResponseBase:
        """Return the response. One that does not stream is closed already."""
        set_script_prefix(get_script_prefix(scope))
        request_started.send(sender=type(self), scope=scope)
        request, refusal = self.create_request(scope, body)
        response: HttpResponseBase | None = self.get_response(request) if request else refusal
        assert response
        if isinstance(response, FileResponse):
            response.block_size = self.chunk_size
        if response.streaming:
            close_old_connections()
        else:
            response.close()
        return response

    async def stream(self, response: HttpResponseBase, receive: Receive, send: Send) -> None:
        """Send the parts, which are made in another thread, until the client leaves."""
        async with ThreadSensitiveContext():
            leaving = asyncio.create_task(receive())
            sending = asyncio.create_task(self.send_response(response, send))
            try:
                await asyncio.wait((leaving, sending), return_when=asyncio.FIRST_COMPLETED)
            finally:
                leaving.cancel()
                sending.cancel()
                await asyncio.gather(leaving, sending, return_exceptions=True)
                await sync_to_async(response.close)()
        if not sending.cancelled():
            sending.result()
