"""Read a streamed response, whose parts may come from an async generator."""

from typing import Any

from asgiref.sync import async_to_sync


def streamed(response: Any) -> bytes:
    return collected(response) if response.is_async else b"".join(response)


@async_to_sync
async def collected(response: Any) -> bytes:
    return b"".join([part async for part in response])
