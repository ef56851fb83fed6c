"""Read a streamed response, as an ASGI server does."""

from typing import Any

from asgiref.sync import async_to_sync


@async_to_sync
async def streamed(response: Any) -> bytes:
    if not response.is_async:
        return b"".join(response)
    return b"".join([part async for part in response])
