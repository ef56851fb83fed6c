"""The arithmetic of a CA's limits. Pure functions: levels and moments in, levels and moments out.

A limit is a token bucket, as CAs keep them: it holds `capacity` tokens, an order takes one, and one comes back each so
many seconds, a fraction at a time. What is under way (taken here, and perhaps not yet counted there) is room that the
bucket may not fill: a CA counts when the order arrives, and its bucket, full until then, gave nothing back meanwhile.
So the level here never passes what the CA's own bucket holds.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from authorities.catalog import Limit


@dataclass(frozen=True)
class Level:
    """Tokens at a moment. A moment that lies ahead closes the bucket until then: the CA said when to come back."""

    tokens: float
    at: datetime


def level_at(level: Level, now: datetime, limit: Limit, under_way: int = 0) -> float:
    """Tokens that are there now; none while the bucket is closed."""
    if now < level.at:
        return 0.0
    if limit.capacity == float("inf"):
        return limit.capacity
    filled = level.tokens + (now - level.at).total_seconds() / limit.each
    return min(limit.capacity - under_way, filled)


def take(
    level: Level, now: datetime, limit: Limit, under_way: int = 0, tokens: float = 1.0
) -> Level:
    """The bucket after so many tokens were taken now, or given back where that is negative. Never more than it holds;
    a bucket that is closed stays so."""
    if now < level.at:
        return level
    left = level_at(level, now, limit, under_way) - tokens
    return Level(min(left, limit.capacity), now)


def slot(level: Level, now: datetime, limit: Limit, under_way: int = 0, ahead: int = 0) -> datetime:
    """When there will be a token for whoever has so many others ahead of him; `now` when there is one."""
    begins = max(now, level.at)
    lacking = 1 + ahead - level_at(level, begins, limit, under_way)
    return begins + timedelta(seconds=max(0.0, lacking) * limit.each)
