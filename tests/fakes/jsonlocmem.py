"""The tests' cache, in this process. Like the one in Redis it takes JSON only."""

import json
from typing import Any

from django.core.cache.backends.locmem import LocMemCache


class JSONLocMemCache(LocMemCache):
    def add(self, key: Any, value: Any, *args: Any, **kwargs: Any) -> bool:
        return super().add(key, json.loads(json.dumps(value)), *args, **kwargs)

    def set(self, key: Any, value: Any, *args: Any, **kwargs: Any) -> None:
        super().set(key, json.loads(json.dumps(value)), *args, **kwargs)
