"""The arithmetic of a CA's limits, against the generic cell rate algorithm that CAs use."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from authorities.catalog import Limit
from issuance.ratelimits import buckets
from issuance.ratelimits.buckets import Level

NOW = datetime(2026, 11, 25, tzinfo=UTC)
LIMIT = Limit(5, 12.0)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_a_full_bucket_gives_its_capacity_at_once_and_then_one_at_a_time():
    level = Level(5, NOW)
    for _ in range(5):
        assert buckets.level_at(level, NOW, LIMIT) >= 1
        level = buckets.take(level, NOW, LIMIT)
    assert buckets.level_at(level, NOW, LIMIT) < 1
    assert buckets.slot(level, NOW, LIMIT) == later(12)
    assert buckets.level_at(level, later(12), LIMIT) >= 1


def test_a_bucket_never_holds_more_than_its_capacity():
    assert buckets.level_at(Level(5, NOW), later(86400), LIMIT) == 5
    assert buckets.take(Level(5, NOW), NOW, LIMIT, tokens=-3).tokens == 5


def test_orders_under_way_keep_the_bucket_from_filling():
    assert buckets.level_at(Level(5, NOW), later(86400), LIMIT, under_way=2) == 3


def test_a_slot_counts_those_who_are_ahead():
    empty = Level(0, NOW)
    assert buckets.slot(empty, NOW, LIMIT, ahead=0) == later(12)
    assert buckets.slot(empty, NOW, LIMIT, ahead=3) == later(48)
    assert buckets.slot(Level(4, NOW), NOW, LIMIT, ahead=3) == NOW


def test_a_bucket_that_the_ca_closed_is_empty_until_its_moment():
    closed = Level(1, later(100))
    assert buckets.level_at(closed, later(99), LIMIT) == 0
    assert buckets.level_at(closed, later(100), LIMIT) == 1
    assert buckets.slot(closed, NOW, LIMIT) == later(100)
    assert buckets.slot(closed, NOW, LIMIT, ahead=1) == later(112)
    assert buckets.take(closed, NOW, LIMIT) == closed, (
        "what is given back meanwhile changes nothing"
    )


def test_the_period_of_a_limit_is_what_people_know_it_by():
    assert Limit(300, 36).period == timedelta(hours=3)


@pytest.mark.parametrize("seed", range(30))
def test_the_ca_never_counts_more_than_its_limit_at_any_delay(seed):
    """An order arrives up to 20 seconds after its token was taken; its response arrives later."""
    chance = random.Random(seed)
    limit = Limit(chance.choice([1, 3, 20]), chance.choice([0.2, 2.0, 36.0]))
    level = Level(limit.capacity, NOW)
    now = 0.0
    arrival = 0.0
    under_way: list[tuple[float, float]] = []  # when each arrives, and when its answer is there
    arrivals: list[float] = []
    for _ in range(2000):
        now += chance.expovariate(1 / limit.each) * chance.choice([0.1, 1, 5])
        for each in sorted(under_way, key=lambda each: each[1]):
            if each[1] <= now:
                level = buckets.take(level, later(each[1]), limit, len(under_way), tokens=0)
                under_way.remove(each)
        if buckets.level_at(level, later(now), limit, len(under_way)) >= 1:
            level = buckets.take(level, later(now), limit, len(under_way))
            arrives = now + chance.uniform(0, 20)
            under_way.append((arrives, arrives + chance.uniform(0, 20)))
            arrivals.append(arrives)
    for at in sorted(arrivals):
        early = max(arrival, at) - at - (limit.capacity - 1) * limit.each
        assert early <= 1e-3, f"refused, {early:.3f} s too early"
        arrival = max(arrival, at) + limit.each
