"""A device holds a WebSocket and hears its signals there."""

import asyncio
import json

import pytest

from devices import agentchallenges, signals, websocket
from devices import hub as hubs
from devices.hub import hub
from devices.models import AgentChallenge, Device, DeviceSession, Signal
from tests.devices.waiting import Polling, Socket, emit, until

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]
POLICY = 1008


@pytest.fixture
def device_id(enrolment):
    return enrolment["device"]["id"]


@pytest.fixture
def token(enrolment):
    return enrolment["session"]["access_token"]


@pytest.fixture
def connect(device_id, token):
    """Connect as the device. Return the socket once it waits, or `greets` not at all."""

    async def connected(resume_token=None):
        socket = Socket(device_id, token)
        await socket.greet(resume_token)
        await until(lambda: is_waiting(device_id))
        return socket

    return connected


def is_waiting(device_id):
    return any(each.cursor is not None for each in hub().waiters.get(device_id, ()))


def ids():
    return [str(signals.Line.of(row).cursor) for row in Signal.objects.order_by("seq")]


def test_a_signal_arrives_with_its_id(inline, device_id, connect):
    async def scene():
        socket = await connect()
        emit(device_id, 7)
        return await socket.read()

    event = inline(scene())
    ms = 1893456000000
    assert event == {
        "type": "event",
        "name": "updates.signal",
        "id": f"{ms}-1",
        "resume_token": f"{ms}-1",
        "ts_ms": ms,
        "payload": {"type": "cert.updated", "ts_ms": ms, "ref": {"cert_id": 7}},
    }


def test_signals_wait_until_the_hello_is_answered(inline, device_id, token):
    async def scene():
        socket = Socket(device_id, token)
        await socket.next()
        hello = await socket.read()
        emit(device_id, 1)
        await hub().serve([device_id])
        assert socket.inbox.empty()
        socket.say({"type": "event", "name": "lifecycle.hello_ack", "payload": {}})
        return hello, await socket.read()

    hello, event = inline(scene())
    assert hello["connection_id"]
    assert event["payload"]["ref"] == {"cert_id": 1}


def test_a_device_resumes_after_the_last_signal_that_it_processed(inline, device_id, connect):
    for number in range(3):
        signals.emit([device_id], "cert.updated", {"cert_id": number})
    first, *others = ids()

    async def scene(resume_token):
        socket = await connect(resume_token)
        return [(await socket.read())["id"] for _ in others]

    assert inline(scene(first)) == others
    assert inline(scene(f'"{first}"')) == others


def test_a_device_without_a_resume_token_gets_the_whole_log(inline, device_id, connect):
    for number in range(signals.MOST + 5):
        signals.emit([device_id], "cert.updated", {"cert_id": number})

    async def scene(resume_token):
        socket = await connect(resume_token)
        return [(await socket.read())["id"] for _ in range(signals.MOST + 5)]

    assert inline(scene(None)) == ids()
    assert inline(scene("0-0")) == ids()


def test_signals_that_come_while_others_are_sent_follow_them(inline, device_id, connect):
    async def scene():
        socket = await connect()
        emit(device_id, 0)
        await hub().serve([device_id])
        for number in range(1, 4):
            emit(device_id, number)
            await hub().serve([device_id])
        return [(await socket.read())["payload"]["ref"]["cert_id"] for _ in range(4)]

    assert inline(scene()) == [0, 1, 2, 3]


@pytest.mark.parametrize("resume_token", ["1-1", "x", "*", 7, {"a": 1}, "9" * 40])
def test_a_token_that_is_not_in_the_log_asks_for_everything(
    inline, device_id, connect, resume_token
):
    signals.emit([device_id], "cert.updated", {"cert_id": 1})

    async def scene():
        socket = await connect(resume_token)
        first = await socket.read()
        emit(device_id, 2)
        return first, await socket.read()

    first, second = inline(scene())
    assert first["id"] == first["resume_token"] == ids()[0]
    assert first["payload"]["type"] == "state.resync_required"
    assert first["payload"]["ref"] == {
        "action": "full_resync",
        "reason": "cursor_trimmed",
        "earliest_retained_id": ids()[0],
    }
    assert second["id"] == ids()[1]


def test_pings_are_answered(inline, connect):
    async def scene():
        socket = await connect()
        socket.say({"type": "ping", "ts": 12})
        pong = await socket.read()
        socket.say({"type": "event", "name": "lifecycle.ping", "payload": {"n": 1}})
        return pong, await socket.read()

    pong, event = inline(scene())
    assert pong == {"type": "pong", "ts": 12}
    assert event == {"type": "event", "name": "lifecycle.pong", "payload": {"n": 1}}


@pytest.mark.parametrize("payload", [None, [1], "x"])
def test_the_payload_of_a_pong_is_an_object(inline, connect, payload):
    async def scene():
        socket = await connect()
        socket.say({"type": "event", "name": "lifecycle.ping", "payload": payload})
        return await socket.read()

    assert inline(scene())["payload"] == {}


def test_a_token_in_the_query_counts_beside_another_scheme(inline, device_id, token):
    async def scene():
        socket = Socket(device_id, "", "", f"token={token}")
        socket.scope["headers"].append((b"authorization", b"Basic eDp5"))
        await socket.greet()

    inline(scene())


def test_unknown_messages_and_acks_are_ignored(inline, device_id, connect):
    async def scene():
        socket = await connect()
        socket.say({"type": "event", "name": "new.name", "payload": {}, "x": [1]})
        socket.say({"type": "strange"})
        socket.say({})
        socket.say({"type": "event", "name": "updates.ack", "id": "1-1", "payload": {}})
        socket.say({"type": "event", "name": "lifecycle.hello_ack", "resume_token": "x"})
        socket.say({"type": "ping", "ts": 1})
        return await socket.read()

    assert inline(scene()) == {"type": "pong", "ts": 1}


@pytest.mark.parametrize("text", ["", "x", "[]", "7", "[" * 60_000, "null"])
def test_a_message_that_is_no_object_ends_the_connection(inline, connect, text):
    async def scene():
        socket = await connect()
        socket.say(text)
        return await socket.close_code(), hub().count

    assert inline(scene()) == (websocket.UNREADABLE, 0)


def test_a_binary_message_ends_the_connection(inline, connect):
    async def scene():
        socket = await connect()
        socket.outbox.put_nowait({"type": "websocket.receive", "bytes": b"x"})
        return await socket.close_code()

    assert inline(scene()) == websocket.UNREADABLE


def test_too_many_messages_end_the_connection(inline, monkeypatch, connect):
    monkeypatch.setattr(websocket, "MOST_MESSAGES", 5)

    async def scene():
        socket = await connect()
        for _ in range(10):
            socket.say({"type": "strange"})
        return await socket.close_code()

    assert inline(scene()) == POLICY


def test_a_device_that_is_silent_is_cut_off(inline, monkeypatch, device_id, token, connect):
    async def scene():
        monkeypatch.setattr(websocket, "HELLO_WITHIN", 0.01)
        never_greeted = Socket(device_id, token)
        await never_greeted.next()
        await never_greeted.read()
        codes = [await never_greeted.close_code()]
        monkeypatch.setattr(websocket, "HELLO_WITHIN", 20)
        monkeypatch.setattr(websocket, "SILENT", 0.01)
        socket = Socket(device_id, token)
        await socket.greet()
        codes.append(await socket.close_code())
        return codes, hub().count

    assert inline(scene()) == ([POLICY, POLICY], 0)


def test_pings_before_the_hello_is_answered_do_not_keep_the_connection(
    inline, monkeypatch, device_id, token
):
    monkeypatch.setattr(websocket, "HELLO_WITHIN", 0.2)

    async def scene():
        socket = Socket(device_id, token)
        await socket.next()
        for _ in range(1000):
            socket.say({"type": "ping", "ts": 1})
            await asyncio.sleep(0.01)
            while not socket.inbox.empty():
                message = await socket.next()
                if message["type"] == "websocket.close":
                    return message["code"]
        return None

    assert inline(scene()) == POLICY


def test_a_device_that_leaves_leaves_nothing(inline, connect):
    async def scene():
        socket = await connect()
        socket.leave()
        await socket.task
        return hub().count, hub().waiters

    assert inline(scene()) == (0, {})


# --- Challenges ---


@pytest.fixture
def challenge(device_id):
    device = Device.objects.get(pk=device_id)
    return agentchallenges.note(device, "http01", {"token": "t", "domains": ["example.com"]})


def start(challenge):
    agentchallenges.start([challenge.pk])
    hub().look([challenge.device_id])


def stop(challenge):
    agentchallenges.stop(AgentChallenge.objects.filter(pk=challenge.pk))
    hub().look([challenge.device_id])


def acked(event):
    name = {"type": "event", "name": "updates.ack", "payload": {}}
    return name | {"id": event["id"], "resume_token": event["id"]}


def test_a_challenge_is_started_and_stopped_on_the_socket(inline, device_id, connect, challenge):
    signals.emit([device_id], "cert.updated", {"cert_id": 1})

    async def scene():
        socket = await connect()
        events = [await socket.read()]
        start(challenge)
        events.append(await socket.read())
        socket.say(acked(events[1]))
        await until(lambda: AgentChallenge.objects.get().acked_at)
        stop(challenge)
        events.append(await socket.read())
        socket.say(acked(events[2]))
        await until(lambda: not AgentChallenge.objects.exists())
        return events

    signal, started, stopped = inline(scene())
    assert started["payload"]["type"] == "acme.http01.start"
    named = {"challenge_id": challenge.challenge_id}
    assert started["payload"]["ref"] == {"token": "t", "domains": ["example.com"]} | named
    assert stopped["payload"]["type"] == "acme.http01.stop"
    assert stopped["payload"]["ref"] == named
    assert started["payload"]["ts_ms"] == started["ts_ms"] < stopped["ts_ms"]
    assert started["resume_token"] == stopped["resume_token"] == signal["id"]


def test_a_start_without_an_ack_is_sent_once_for_each_connection(
    inline, monkeypatch, device_id, connect, challenge
):
    async def scene():
        first = await connect()
        start(challenge)
        events = [await first.read()]
        await hub().serve([device_id])
        await hub().serve([device_id])
        assert first.inbox.empty()
        second = await connect()
        events.append(await second.read())
        return events

    first, second = inline(scene())
    assert first == second
    assert AgentChallenge.objects.get().acked_at is None


def test_an_ack_outlasts_its_connection(inline, connect, challenge):
    async def scene():
        socket = await connect()
        start(challenge)
        socket.say(acked(await socket.read()))
        socket.leave()
        await socket.task
        await until(lambda: AgentChallenge.objects.get().acked_at)

    inline(scene())


def test_an_ack_of_something_else_confirms_nothing(inline, connect, challenge):
    async def scene():
        socket = await connect()
        start(challenge)
        event = await socket.read()
        for wrong in ("", "0-0", None, 7, [event["id"]]):
            socket.say(acked(event) | {"id": wrong})
        socket.say({"type": "ping", "ts": 1})
        await socket.read()

    inline(scene())
    assert AgentChallenge.objects.get().acked_at is None


def test_a_poll_hears_no_challenge(inline, token, challenge):
    async def scene():
        agentchallenges.start([challenge.pk])
        return await Polling(token, "wait=1").answer()

    assert inline(scene())[0] == 204


# --- The handshake ---


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/api/websocket/{}", ""),
        ("/api/websocket", "device_id={}"),
        ("/api/tunnel", "device_id={}"),
        ("/api/tunnel/{}", ""),
        ("/api/websocket/{}/", ""),
    ],
)
def test_every_form_of_the_address_is_accepted(inline, device_id, token, path, query):
    async def scene(own, in_query):
        asked = [query.format(device_id), f"token={token}" if in_query else ""]
        socket = Socket(
            device_id, own, path.format(device_id), "&".join(part for part in asked if part)
        )
        await socket.greet()

    inline(scene(token, False))
    inline(scene("", True))


def test_the_address_is_below_the_prefix(inline, settings, device_id, token):
    settings.URL_PREFIX = "/certctrl"

    async def scene():
        await Socket(device_id, token, f"/certctrl/api/websocket/{device_id}").greet()

    inline(scene())


@pytest.mark.parametrize(
    "path",
    ["/api/websocket/{other}", "/api/websocket", "/api/tunnel/{own}/x", "/api/websocket/0{own}"],
)
def test_a_path_that_differs_from_the_claim_is_forbidden(inline, device_id, token, path):
    async def scene():
        socket = Socket(device_id, token, path.format(other=device_id + 1, own=device_id))
        return await socket.refusal(), hub().count

    (status, error), count = inline(scene())
    assert (status, error["code"], count) == (403, 5022, 0)


def test_another_path_is_not_there(inline, device_id, token):
    async def scene():
        return await Socket(device_id, token, f"/api/websockets/{device_id}").refusal()

    assert inline(scene())[0] == 404


@pytest.mark.parametrize("forged", ["", "x.y.z"])
def test_without_a_valid_token_there_is_no_connection(inline, device_id, forged):
    async def scene():
        return await Socket(device_id, forged).refusal()

    assert inline(scene())[0] == 401


def test_an_expired_token_is_refused(inline, clock, device_id, token):
    clock.shift(3601)

    async def scene():
        return await Socket(device_id, token).refusal()

    assert inline(scene())[0] == 401


def test_a_failing_database_is_a_503_without_details(inline, monkeypatch, device_id, token):
    from django.db import OperationalError

    def failing(claims):
        raise OperationalError("the password is hunter2")

    monkeypatch.setattr(websocket, "device_of", failing)

    async def scene():
        return await Socket(device_id, token).refusal()

    status, error = inline(scene())
    assert status == 503
    assert "hunter2" not in json.dumps(error)


def revoke():
    Device.objects.update(status="REVOKED", revoked_at="2030-01-01T00:00:00Z")


def end_session():
    DeviceSession.objects.update(ended_at="2030-01-01T00:00:00Z")


@pytest.mark.parametrize(("act", "status"), [(revoke, 403), (end_session, 401)])
def test_a_device_that_was_revoked_is_refused_or_ended(
    inline, device_id, token, connect, act, status
):
    async def scene():
        socket = await connect()
        act()
        hub().look([device_id])
        code = await socket.close_code()
        return code, await Socket(device_id, token).refusal()

    code, (refused, _) = inline(scene())
    assert (code, refused) == (POLICY, status)


def test_a_full_process_refuses_the_handshake(inline, settings, device_id, token, connect):
    settings.MAX_DEVICES = 1

    async def scene():
        await connect()
        return await Socket(device_id, token).refusal()

    status, error = inline(scene())
    assert status == 503
    assert error["params"]["retry_after"] > 0


def test_the_fifth_connection_of_a_device_ends_its_first(inline, connect):
    async def scene():
        sockets = [await connect() for _ in range(hubs.MOST_OF_ONE + 1)]
        return await sockets[0].close_code(), hub().count

    assert inline(scene()) == (websocket.REPLACED, hubs.MOST_OF_ONE)
