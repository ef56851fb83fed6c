"""A poll with `wait` holds no thread until a signal comes, the time is over, or the device goes."""

import asyncio

import pytest
from django.db import OperationalError

from devices import hub as hubs
from devices import longpoll, signals
from devices.hub import Hub, hub
from devices.models import Device, DeviceSession
from tests.devices.waiting import Polling, emit, until, within

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]


@pytest.fixture
def device_id(enrolment):
    return enrolment["device"]["id"]


@pytest.fixture
def token(enrolment):
    return enrolment["session"]["access_token"]


def numbers(body):
    return [each["ref"]["cert_id"] for each in body["data"]["signals"]]


async def idle(poll):
    """Return once the poll waits in the hub."""
    await until(lambda: "waiting" in poll.scope["state"] and not hub().due)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not poll.task.done()


def test_a_signal_that_is_there_is_sent_at_once(inline, device_id, token):
    async def scene():
        emit(device_id, 7)
        return await Polling(token).answer()

    status, body, headers = inline(scene())
    assert (status, numbers(body)) == (200, [7])
    assert headers["etag"] == f'"{body["data"]["cursor"]}"'
    assert headers["cache-control"] == "no-store"
    assert int(headers["x-poll-interval"]) > 0


def test_a_poll_hears_the_signal_that_comes(inline, device_id, token):
    async def scene():
        poll = Polling(token)
        await idle(poll)
        emit(device_id, 1)
        emit(device_id, 2)
        first = await poll.answer()
        again = Polling(token, etag=first[2]["etag"])
        await idle(again)
        emit(device_id, 3)
        return first, await again.answer(), hub().count

    first, second, left = inline(scene())
    assert (numbers(first[1]), numbers(second[1]), left) == ([1, 2], [3], 0)


def test_a_thousand_parameters_are_refused(inline, device_id, token):
    async def scene():
        poll = Polling(token, "wait=30&" + "&".join(["a=1"] * 1001))
        assert longpoll.waits(poll.scope)
        return await poll.answer()

    status, body, _ = inline(scene())
    assert (status, body["error"]["code"]) == (400, 5000)


def test_the_limit_of_the_poll_holds_after_a_wait(inline, device_id, token):
    async def scene():
        poll = Polling(token, "wait=30&limit=1")
        await idle(poll)
        emit(device_id, 1)
        emit(device_id, 2)
        return await poll.answer()

    _, body, headers = inline(scene())
    assert numbers(body) == [1]
    assert headers["etag"].strip('"') == body["data"]["cursor"]


def test_a_poll_is_idle_when_its_time_is_over(inline, device_id, token):
    async def scene():
        emit(device_id, 1)
        cursor = str(signals.Line.of(signals.Signal.objects.get()).cursor)
        return cursor, await Polling(token, "wait=1", etag=f'"{cursor}"').answer()

    cursor, (status, body, headers) = inline(scene())
    assert (status, body) == (204, None)
    assert headers["etag"] == f'"{cursor}"'
    assert headers["cache-control"] == "no-store"


def test_a_signal_without_a_message_is_found_by_the_regular_look(
    inline, monkeypatch, device_id, token
):
    monkeypatch.setattr(hubs, "LOOK_EVERY", 0.05)

    async def scene():
        poll = Polling(token)
        await idle(poll)
        signals.emit([device_id], "cert.updated", {"cert_id": 1})
        return await poll.answer()

    assert numbers(inline(scene())[1]) == [1]


def test_the_regular_look_is_one_statement_for_all_polls(
    inline, monkeypatch, device_id, token, django_assert_num_queries
):
    async def scene():
        polls = [Polling(token) for _ in range(3)]
        for each in polls:
            await idle(each)
        with django_assert_num_queries(1):
            await hub().serve(list(hub().waiters))
        assert hub().count == 3

    inline(scene())


def test_the_hub_keeps_its_connection_until_an_error(monkeypatch):
    closed: list[bool] = []
    monkeypatch.setattr(hubs.connections, "close_all", lambda: closed.append(True))

    def fails():
        raise OperationalError("the connection is broken")

    async def scene():
        here = Hub()
        assert await here.in_own_thread(lambda: 7) == 7
        assert closed == []
        with pytest.raises(OperationalError):
            await here.in_own_thread(fails)
        here.thread.shutdown()

    asyncio.run(scene())
    assert closed == [True]


def test_a_client_that_leaves_leaves_nothing(inline, device_id, token):
    async def scene():
        poll = Polling(token)
        await idle(poll)
        poll.leaves.set()
        await within(poll.task)
        return hub().count, poll.scope["state"]

    assert inline(scene()) == (0, {})


def test_a_server_that_stops_answers_its_polls(inline, token):
    async def scene():
        poll = Polling(token)
        await idle(poll)
        poll.scope["state"]["waiting"].end(None)
        return await poll.answer()

    assert inline(scene())[0] == 204


def test_a_cursor_that_is_not_in_the_log_is_refused_while_it_waits(inline, token):
    async def scene():
        return await Polling(token, etag='"1-1"').answer()

    status, body, _ = inline(scene())
    assert (status, body["error"]["code"]) == (409, 40901)


@pytest.mark.parametrize(("query", "field"), [("wait=31", "wait"), ("wait=1&limit=0", "limit")])
def test_a_wrong_parameter_is_refused_in_the_shape_of_every_error(inline, token, query, field):
    async def scene():
        return await Polling(token, query).answer()

    status, body, _ = inline(scene())
    assert (status, body["error"]["params"]["field"]) == (400, field)


@pytest.mark.parametrize("token", ["", "x.y.z"])
def test_a_poll_without_a_valid_token_does_not_wait(inline, db, token):
    async def scene():
        return await Polling(token).answer()

    status, _, headers = inline(scene())
    assert status == 401
    assert "www-authenticate" in headers


def revoke():
    Device.objects.update(status="REVOKED", revoked_at="2030-01-01T00:00:00Z")


def end_session():
    DeviceSession.objects.update(ended_at="2030-01-01T00:00:00Z")


@pytest.mark.parametrize(("act", "status"), [(revoke, 403), (end_session, 401)])
@pytest.mark.parametrize("late", [False, True])
def test_a_device_that_may_no_longer_read_is_told_so(inline, device_id, token, act, status, late):
    async def scene():
        if not late:
            act()
            return await Polling(token).answer()
        poll = Polling(token)
        await idle(poll)
        act()
        hub().look([device_id])
        return await poll.answer()

    assert inline(scene())[0] == status


def test_one_device_too_many_is_asked_to_come_back(inline, settings, token):
    settings.MAX_DEVICES = 1

    async def scene():
        first = Polling(token)
        await idle(first)
        return await Polling(token).answer(), hub().count

    (status, _, headers), count = inline(scene())
    assert (status, count) == (503, 1)
    assert int(headers["retry-after"]) > 0


def test_one_connection_too_many_of_a_device_ends_its_oldest(inline, token):
    async def scene():
        polls = []
        for _ in range(hubs.MOST_OF_ONE + 1):
            polls.append(Polling(token))
            await idle(polls[-1])
        return await polls[0].answer(), hub().count

    (status, _, _), count = inline(scene())
    assert (status, count) == (204, hubs.MOST_OF_ONE)


def test_a_failed_look_is_tried_again(inline, monkeypatch, device_id, token):
    monkeypatch.setattr(hubs, "PAUSE", 0)
    monkeypatch.setattr(hubs, "LOOK_EVERY", 0.05)
    real, failures = signals.read_all, iter([OSError("the database is away")])

    def failing(asked):
        for failure in failures:
            raise failure
        return real(asked)

    async def scene():
        poll = Polling(token)
        await idle(poll)
        monkeypatch.setattr(signals, "read_all", failing)
        emit(device_id, 1)
        return await poll.answer()

    assert numbers(inline(scene())[1]) == [1]


def test_a_device_that_waits_is_noted_as_seen(inline, monkeypatch, clock, device_id, token):
    monkeypatch.setattr(hubs, "SEEN_EVERY", 0)
    before = Device.objects.get().last_seen_at
    clock.shift(600)

    async def scene():
        poll = Polling(token)
        await idle(poll)
        await until(lambda: Device.objects.get().last_seen_at > before)

    inline(scene())
