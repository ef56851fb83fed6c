"""The cache in Redis, with JSON values.

Django's own serializer can run code from a value that somebody else wrote.
"""

import json
from typing import Any

from django.core.cache.backends.redis import RedisCache, RedisCacheClient


class JSONSerializer:
    """Whole numbers are stored as plain digits, so that Redis can count with them."""

    def dumps(self, obj: Any) -> bytes:
        return json.dumps(obj).encode()

    def loads(self, data: Any) -> Any:
        """Return the value. Raise ValueError when the data is not JSON."""
        return json.loads(data)


class JSONClient(RedisCacheClient):
    """A Redis client that treats a value as missing when the value is not JSON.

    Such a value was written by an older version or by another program.
    """

    def __init__(self, servers: Any, **options: Any) -> None:
        super().__init__(servers, serializer=JSONSerializer, **options)
        self._kept = super().get_client(write=True)

    def get_client(self, key: Any = None, *, write: bool = False) -> Any:
        """Return one and the same client. Django's makes a new one for each call."""
        return self._kept

    def get(self, key: Any, default: Any) -> Any:
        try:
            return super().get(key, default)
        except (ValueError, RecursionError):
            return default

    def get_many(self, keys: Any) -> dict[Any, Any]:
        absent = object()
        found = {key: self.get(key, absent) for key in keys}
        return {key: value for key, value in found.items() if value is not absent}


class JSONCache(RedisCache):
    def __init__(self, server: Any, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._class = JSONClient
