"""/health is 200 while sweeps end, and 503 when none ended for a minute."""

import pytest
import time_machine
from django.core.cache import cache

from certctrl import clock, disk, health
from certctrl.health import SWEPT

pytestmark = pytest.mark.django_db


def test_a_sweep_that_ended_just_now_is_health(client_of):
    cache.set(SWEPT, clock.now().timestamp(), None)
    response = client_of().get("/health")
    assert (response.status_code, response.body) == (200, {"data": "ok"})


def test_without_any_sweep_it_is_503_with_a_sentence(client_of):
    response = client_of().get("/health")
    assert (response.status_code, response.error["code"]) == (503, 20009)
    assert "sweep" in response.error["what"]


def test_pages_ask_a_redis_that_hangs_once_in_a_while(monkeypatch):
    passed, asked = [100.0], []

    def hang(names):
        asked.append(names)
        raise TimeoutError

    monkeypatch.setattr(health, "_away_until", float("-inf"))
    monkeypatch.setattr(clock, "monotonic", lambda: passed[0])
    with monkeypatch.context() as away:
        away.setattr(health.cache, "get_many", hang)
        for _ in range(3):
            assert health.standstill() == "Redis does not answer. Check that it runs."
        assert len(asked) == 1
    passed[0] += health.AWAY_FOR
    assert health.standstill() == ""


def test_a_page_asks_redis_once(monkeypatch):
    asked = []

    def noted(names):
        asked.append(names)
        return {SWEPT: clock.now().timestamp() - 100}

    monkeypatch.setattr(cache, "get_many", noted)
    monkeypatch.setattr(cache, "get", asked.append)
    assert health.standstill().startswith("No sweep ended for 100 seconds.")
    assert len(asked) == 1


@pytest.mark.parametrize("foreign", ["yesterday", 10**400, [1], {}])
def test_a_foreign_value_is_no_sweep(client_of, foreign):
    cache.set(SWEPT, foreign, None)
    assert health.standstill() == ""
    assert client_of().get("/health").status_code == 503


def test_a_full_disk_is_why_nothing_moves():
    cache.set(disk.KEPT, disk.DATABASE, disk.PAUSE)
    assert health.standstill().startswith("The disk of the database is full.")


@pytest.mark.parametrize(("silent", "status"), [(59, 200), (62, 503), (3600, 503)])
def test_a_minute_without_a_sweep_is_too_long(client_of, silent, status):
    with time_machine.travel("2030-01-01T00:00:00+00:00", tick=False) as traveller:
        cache.set(SWEPT, clock.now().timestamp(), None)
        traveller.shift(silent)
        assert client_of().get("/health").status_code == status


def test_when_the_cache_is_away_it_is_503(client_of, monkeypatch):
    def away(key):
        raise ConnectionError("no redis")

    monkeypatch.setattr(cache, "get", away)
    assert client_of().get("/health").status_code == 503


@pytest.mark.parametrize(
    ("ahead", "status"), [(59, 200), (61, 503), (7200, 503), (30 * 86400, 503)]
)
def test_a_sweep_that_ended_in_the_future_is_no_sweep(client_of, ahead, status):
    with time_machine.travel("2030-01-01T00:00:00+00:00", tick=False):
        cache.set(SWEPT, clock.now().timestamp() + ahead, None)
        response = client_of().get("/health")
        assert response.status_code == status
        assert status == 200 or f"{ahead} seconds in the future" in response.error["what"]
