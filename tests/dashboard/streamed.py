"""Read a response whose parts come from an async generator, as an ASGI server does."""

from typing import Any

from asgiref.sync import async_to_sync


@async_to_sync
async def streamed(response: Any) -> bytes:
    return b"".join([part async for part in response])
