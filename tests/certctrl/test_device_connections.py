"""Devices that wait at a real uvicorn: they have limits of their own, and no log has a token."""

import contextlib
import json
import logging
import socket
import threading

import pytest
import uvicorn
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as open_socket

from certctrl import asgi, connections, webserver
from devices import hub, longpoll, signals, tokens, websocket
from devices.models import Device, DeviceSession
from tests.patience import LIMIT, until

DEVICE = 7


@pytest.fixture
def token():
    return tokens.access_token(Device(pk=DEVICE, owner_id=1), DeviceSession(family="f" * 32))


@pytest.fixture
def server(monkeypatch):
    """A server whose devices exist, and have no signals."""

    def nothing(asked, live):
        return {key: signals.News("f" * 32) for key in asked}, {key[0]: [] for key in asked}

    async def away(hub):
        return None

    async def page(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    monkeypatch.setattr(hub, "read", nothing)
    monkeypatch.setattr(hub, "note_all_seen", lambda devices: None)
    monkeypatch.setattr(hub.Hub, "listen", away)
    for module in (websocket, longpoll):
        monkeypatch.setattr(module, "device_of", lambda claims: None)
    monkeypatch.setattr(asgi, "http_application", page)
    given = webserver.arguments()
    size = int(given[given.index("--ws-max-size") + 1])
    config = uvicorn.Config(
        asgi.application,
        port=0,
        http=connections.PatientProtocol,
        ws=connections.DeviceProtocol,
        ws_max_size=size,
        ws_per_message_deflate=False,
        ws_ping_interval=0,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    started = uvicorn.Server(config)
    thread = threading.Thread(target=started.run)
    thread.start()
    until(lambda: started.started, "uvicorn listens")
    yield started
    started.should_exit = True
    thread.join(LIMIT)


@pytest.fixture
def address(server):
    return server.servers[0].sockets[0].getsockname()


@pytest.fixture
def greeted(address):
    """Return a function that connects and sends the hello_ack."""
    with contextlib.ExitStack() as opened:

        def connect(token, query=""):
            host, port = address
            uri = f"ws://{host}:{port}/api/websocket/{DEVICE}{query}"
            headers = {} if query else {"Authorization": f"Bearer {token}"}
            device = opened.enter_context(
                open_socket(uri, additional_headers=headers, ping_interval=None, proxy=None)
            )
            hello = json.loads(device.recv(LIMIT))
            payload = {"connection_id": hello["connection_id"]}
            device.send(json.dumps({"name": "lifecycle.hello_ack", "payload": payload}))
            return device

        yield connect


def pong(device):
    device.send('{"type": "ping", "ts": 1}')
    return json.loads(device.recv(LIMIT))


def get(address):
    with socket.create_connection(address, timeout=LIMIT) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        got = b""
        while more := client.recv(65536):
            got += more
    return got.split(b"\r\n", 1)[0]


def ended_by(device, message):
    """Send a message that the server does not take. Return the code of its close frame, if any."""
    try:
        device.send(message)
        device.recv(LIMIT)
    except ConnectionClosed as closed:
        return closed.rcvd and closed.rcvd.code
    raise AssertionError("the connection goes on")


def test_a_device_connects_and_is_answered(greeted, token):
    assert pong(greeted(token)) == {"type": "pong", "ts": 1}


def test_no_log_line_has_a_token(address, greeted, token, caplog):
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "uvicorn.error")
    caplog.set_level(logging.INFO, "websockets.client")
    device = greeted(token, f"?token={token}")
    assert pong(device)
    device.close()
    with pytest.raises(InvalidStatus) as refused:
        greeted(token, f"?token={token}x")
    assert refused.value.response.status_code == 401
    assert json.loads(refused.value.response.body)["error"]["code"] == 5018
    assert token.split(".")[1] not in caplog.text
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_a_message_of_ten_megabytes_ends_the_connection(greeted, token):
    device = greeted(token)
    assert pong(device)
    assert ended_by(device, "x" * 10_000_000) in (None, 1009)


def test_a_message_of_ten_megabytes_in_pieces_ends_the_connection(greeted, token):
    device = greeted(token)
    assert pong(device)
    assert ended_by(device, ("x" * 10_000 for _ in range(1000))) in (None, 1009)


def test_a_message_of_endless_empty_pieces_ends_the_connection(monkeypatch, greeted, token):
    monkeypatch.setattr(connections, "MOST_PARTS", 20)
    device = greeted(token)
    assert pong(device)
    assert ended_by(device, ("" for _ in range(100))) is None
    device = greeted(token)
    device.send(each for each in ('{"type": "ping", ', '"ts": 1', "}"))
    assert json.loads(device.recv(LIMIT)) == {"type": "pong", "ts": 1}


def test_devices_that_wait_take_no_place_of_other_clients(settings, address, greeted, token):
    settings.MAX_CONNECTIONS = 2
    devices = [greeted(token) for _ in range(hub.MOST_OF_ONE)]
    assert all(pong(each) for each in devices)
    assert get(address) == b"HTTP/1.1 200 OK"
    assert all(pong(each) for each in devices)


def test_silent_connections_do_not_end_those_of_devices(settings, address, greeted, token):
    settings.MAX_CONNECTIONS = 3
    device = greeted(token)
    with contextlib.ExitStack() as opened:
        for _ in range(20):
            opened.enter_context(socket.create_connection(address, timeout=LIMIT))
        assert pong(device)
        assert get(address) == b"HTTP/1.1 200 OK"


HANDSHAKE = (
    "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.mark.parametrize(
    ("query", "header", "status"),
    [
        ("", "Content-Length: 5", 400),
        ("", "Transfer-Encoding: chunked", 400),
        ("?" + "a" * 9000, "X: 1", 414),
        ("", "X: " + "a" * 9000, 431),
        ("", "\r\n".join(["X: 1"] * 140), 431),
    ],
    ids=["length", "chunked", "long line", "long header", "many headers"],
)
def test_a_handshake_that_cannot_be_read_is_answered(server, address, query, header, status):
    head = f"GET /api/websocket/{DEVICE}{query} HTTP/1.1\r\n{HANDSHAKE}{header}\r\n\r\n"
    with socket.create_connection(address, timeout=LIMIT) as client:
        client.sendall(head.encode())
        got = b""
        while more := client.recv(65536):
            got += more
    assert got.startswith(f"HTTP/1.1 {status} ".encode())
    until(lambda: not server.server_state.connections, "the end of the connection")


@pytest.mark.parametrize("key", ["", "x", "AAAA"])
def test_a_broken_handshake_is_refused(address, token, key):
    head = f"GET /api/websocket/{DEVICE}?token={token} HTTP/1.1\r\nHost: x\r\n"
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    with socket.create_connection(address, timeout=LIMIT) as client:
        client.sendall(f"{head}{upgrade}Sec-WebSocket-Key: {key}\r\n\r\n".encode())
        got = b""
        while more := client.recv(65536):
            got += more
    assert got.startswith(b"HTTP/1.1 400 ")


def frame(opcode: int, payload: bytes) -> bytes:
    """Return a masked frame of a client. The mask is zero (RFC 6455, section 5.2)."""
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload


def test_a_device_that_reads_nothing_is_cut_off(monkeypatch, server, address, token):
    monkeypatch.setattr(connections, "READER_EVERY", 0.2)
    head = f"GET /api/websocket/{DEVICE}?token={token} HTTP/1.1\r\nHost: x\r\n"
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    with socket.create_connection(address, timeout=LIMIT) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        client.sendall(f"{head}{upgrade}{key}\r\n\r\n".encode())
        until(lambda: any(each.waiting for each in server.server_state.connections), "a device")
        with contextlib.suppress(ConnectionError):
            while True:
                client.sendall(frame(9, b"x" * 125) * 1000)
    until(lambda: not server.server_state.connections, "the end of the connection")


def test_a_poll_waits_and_is_answered_when_the_server_stops(server, address, token):
    with socket.create_connection(address, timeout=LIMIT) as client:
        head = f"GET {longpoll.PATH}?wait=30 HTTP/1.1\r\nHost: x\r\n"
        client.sendall(f"{head}Authorization: Bearer {token}\r\n\r\n".encode())
        until(lambda: [each for each in server.server_state.connections if each.waiting], "a poll")
        server.should_exit = True
        assert client.recv(65536).startswith(b"HTTP/1.1 204 ")
