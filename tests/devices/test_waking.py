"""Redis tells the web processes which devices should look."""

import asyncio
from pathlib import Path

import pytest

from certctrl.datastores import Redis
from devices import hub as hubs
from devices import waking
from standalone.redisserver import RedisServer
from tests.certctrl import realredis
from tests.devices.waiting import within

needs_redis = pytest.mark.skipif(RedisServer.found(Path(), "") is None, reason="needs redis-server")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """No test uses the client, or the pause, of another."""
    monkeypatch.setattr(waking, "resumes_at", 0.0)
    client = waking.client
    client.cache_clear()
    yield
    client.cache_clear()


@pytest.fixture
def redis(tmp_path, settings):
    with realredis.running(tmp_path) as port:
        settings.REDIS = Redis("redis", f"127.0.0.1:{port}", 0, "", "", {})
        yield settings.REDIS


async def looks(publish):
    """Return the devices that the hub of a web process looks for after `publish`."""
    hub, told = hubs.Hub(), asyncio.Queue()
    hub.waiters[7], hub.waiters[8] = [], []
    hub.look = lambda ids: told.put_nowait(sorted(hub.waiters.keys() & set(ids)))
    task = asyncio.create_task(hub.listen())
    try:
        while told.empty():  # until the hub has subscribed
            publish()
            await asyncio.sleep(0.01)
        return await within(told.get())
    finally:
        task.cancel()


@needs_redis
def test_a_message_reaches_the_hub(redis):
    assert asyncio.run(looks(lambda: waking.wake([7, 8]))) == [7, 8]


@needs_redis
def test_a_message_that_is_no_list_is_ignored(redis):
    def publish():
        for text in ("x", "7", "null", "[[1]]", b"\xff"):
            waking.client().publish(waking.CHANNEL, text)
        waking.wake([7])

    assert asyncio.run(looks(publish)) == [7]


def test_while_redis_is_away_nobody_waits_for_it_again_and_again(settings, monkeypatch):
    settings.REDIS = Redis("redis", "127.0.0.1:1", 0, "", "", {})
    tried = []
    real = waking.client
    monkeypatch.setattr(waking, "client", lambda: tried.append(1) or real())
    waking.wake([7])
    waking.wake([7])
    assert len(tried) == 1


def test_the_hub_tries_redis_again_after_a_pause(settings, monkeypatch):
    settings.REDIS = Redis("redis", "127.0.0.1:1", 0, "", "", {})
    monkeypatch.setattr(hubs, "PAUSE", 0.01)
    tried = asyncio.Queue()
    real = hubs.Hub.take_messages

    async def noted(hub):
        tried.put_nowait(1)
        await real(hub)

    monkeypatch.setattr(hubs.Hub, "take_messages", noted)

    async def scene():
        task = asyncio.create_task(hubs.Hub().listen())
        for _ in range(3):
            await within(tried.get())
        task.cancel()

    asyncio.run(scene())


def test_the_connection_to_redis_has_the_password_outside_of_its_url():
    server = Redis("rediss", "cache.test:6380", 3, "u", "p@ss", {"ssl_cert_reqs": "required"})
    assert server.url == "rediss://cache.test:6380/3"
    assert server.options == {
        "username": "u",
        "password": "p@ss",
        "ssl_cert_reqs": "required",
    }
