"""`GET /health`: whether the clock works.

The events of each attempt show whether the workers are fast enough.
"""

from typing import Any

from django.conf import settings
from django.core.cache import cache
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from certctrl import clock, disk, errors
from certctrl.api import PublicView
from certctrl.sentences import sentence as _
from certctrl.turns import SKEW, SWEPT

SILENCE = 60  # seconds; the sweep runs every second
AWAY_FOR = 10.0  # seconds for which pages believe that Redis does not answer
_away_until = float("-inf")


class Health(PublicView):
    """Return 200 while sweeps end, and 503 when no sweep ended for a minute.

    A last sweep in the future is 503 too.
    """

    @extend_schema(responses={200: OpenApiTypes.STR})
    def get(self, request: Request) -> Response:
        disk.refuse_when_full()
        swept_at = last_sweep()
        if swept_at is None or clock.now().timestamp() - swept_at > SILENCE:
            disk.refuse_when_redis_is_full()
        if swept_at is None:
            raise errors.Unavailable(
                _("No sweep has ended yet. Check that redis, clock and beat run.")
            )
        if complaint := late(swept_at):
            raise errors.Unavailable(complaint)
        return Response("ok")


def standstill() -> str:
    """Return why nothing moves now, as a sentence for people; empty when that is not known.

    Pages call this, so it asks Redis once. One that hangs is asked once in AWAY_FOR seconds.
    """
    global _away_until
    away = _("Redis does not answer. Check that it runs.")
    if clock.monotonic() < _away_until:
        return away
    try:
        kept = cache.get_many([SWEPT, disk.KEPT])
    except Exception:  # any error of the cache's client
        _away_until = clock.monotonic() + AWAY_FOR
        return away
    if side := disk.full_side(kept.get(disk.KEPT)):
        return _("%(side)s. The operator of this server must free space.", side=side)
    swept_at = None if settings.DEMO else seconds_of(kept.get(SWEPT))
    return "" if swept_at is None else late(swept_at)


def late(swept_at: float) -> str:
    """Return what is wrong when the last sweep ended then (epoch seconds), or ""."""
    silent = clock.now().timestamp() - swept_at
    if silent > SILENCE:
        return _(
            "No sweep ended for %(seconds)s seconds. Check that redis, clock and beat run.",
            seconds=f"{silent:.0f}",
        )
    if -silent > SKEW.total_seconds():
        return _(
            "The last sweep ended %(seconds)s seconds in the future. The clock was set "
            "back, and no sweep ended since then. Check that clock and beat run, and "
            "that all machines have the same time.",
            seconds=f"{-silent:.0f}",
        )
    return ""


def last_sweep() -> float | None:
    """Return when the last sweep ended, in epoch seconds.

    Return None when there is no record, or the cache is away.
    """
    try:
        return seconds_of(cache.get(SWEPT))
    except Exception:  # any error of the cache's client
        return None


def seconds_of(kept: Any) -> float | None:
    """Return a time that was kept, or None for a foreign value."""
    try:
        return float(kept)
    except (TypeError, ValueError, OverflowError):
        return None
