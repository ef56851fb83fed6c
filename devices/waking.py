"""Tell all web processes that devices should look into their logs.

A message is a hint. The web processes also look without one, every few seconds.
"""

import json
from collections.abc import Iterable
from functools import cache

import redis
import structlog
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from certctrl import clock

CHANNEL = "certctrl.devices"
WITHIN = 2.0  # seconds for Redis, because the caller's request or step waits
PAUSE = 5.0  # seconds without messages after a failure

log = structlog.get_logger()
resumes_at = 0.0


def wake(devices: Iterable[int]) -> None:
    """Send the ids of the devices to the web processes. Do nothing when Redis is away."""
    global resumes_at
    if clock.monotonic() < resumes_at:
        return
    try:
        client().publish(CHANNEL, json.dumps(list(devices)))
    except (redis.RedisError, OSError) as exc:
        resumes_at = clock.monotonic() + PAUSE
        log.warning("device.not_woken", error=type(exc).__name__)


@cache
def client() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS.url,
        socket_timeout=WITHIN,
        socket_connect_timeout=WITHIN,
        retry=Retry(NoBackoff(), 1),
        **settings.REDIS.options,
    )
