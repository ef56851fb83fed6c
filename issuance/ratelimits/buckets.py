"""Compute the levels of token buckets, and the times of slots. Pure functions.

A limit is a token bucket, as CAs keep them. A bucket holds at most `capacity` tokens. An order
takes one token. One token comes back every `each` seconds, a fraction at a time.

A token that is under way was taken here, but the CA may not have counted it yet. Tokens under way
reduce the capacity here. The CA counts an order when the order arrives. Until then the CA's bucket
may be full, and a full bucket gets no tokens back. So the level here is never above the level of
the CA's own bucket.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from authorities.catalog import Limit


@dataclass(frozen=True)
class Level:
    """The number of tokens at a time.

    An `at` in the future closes the bucket until then, because the CA asked us to wait.
    """

    tokens: float
    at: datetime


def level_at(level: Level, now: datetime, limit: Limit, under_way: int = 0) -> float:
    """Return the number of tokens at `now`.

    Return 0 while the bucket is closed.
    """
    if now < level.at:
        return 0.0
    if limit.capacity == float("inf"):
        return limit.capacity
    filled = level.tokens + (now - level.at).total_seconds() / limit.each
    return min(limit.capacity - under_way, filled)


def take(
    level: Level, now: datetime, limit: Limit, under_way: int = 0, tokens: float = 1.0
) -> Level:
    """Return the bucket after `tokens` were taken at `now`.

    A negative number gives tokens back, up to the capacity. A closed bucket does not change.
    """
    if now < level.at:
        return level
    left = level_at(level, now, limit, under_way) - tokens
    return Level(min(left, limit.capacity), now)


def slot(level: Level, now: datetime, limit: Limit, under_way: int = 0, ahead: int = 0) -> datetime:
    """Return when the bucket has a token for an order that has `ahead` others before it.

    Return `now` if the token is there already.
    """
    begins = max(now, level.at)
    lacking = 1 + ahead - level_at(level, begins, limit, under_way)
    return begins + timedelta(seconds=max(0.0, lacking) * limit.each)
