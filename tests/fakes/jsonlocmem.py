"""The cache of the tests, in memory. Like the Redis cache, it takes only JSON."""

import json
from typing import Any

from django.core.cache.backends.locmem import LocMemCache


class JSONLocMemCache(LocMemCache):
    def add(self, key: Any, value: Any, *args: Any, **kwargs: Any) -> bool:
        return super().add(key, json.loads(json.dumps(value)), *args, **kwargs)

    def set(self, key: Any, value: Any, *args: Any, **kwargs: Any) -> None:
        super().set(key, json.loads(json.dumps(value)), *args, **kwargs)
