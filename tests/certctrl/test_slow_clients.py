"""A client that is silent, slow or does not read loses its connection.

One whose response takes long keeps it. A real uvicorn with short times runs on a thread.
"""

import asyncio
import contextlib
import json
import socket
import threading

import pytest
import uvicorn

from certctrl import bodylimit, connections, errors, webserver
from certctrl.bodylimit import BodyLimit
from certctrl.connections import PatientProtocol
from tests.patience import LIMIT, until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
LARGE = 16 * 1024 * 1024


class Application:
    """Responds with `body` once `may_answer` is set."""

    def __init__(self):
        self.body = b"hello"
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked = threading.Event()

    def is_known(self, scope):
        self.asked.set()
        return self.may_answer.wait(LIMIT)

    async def __call__(self, scope, receive, send):
        await receive()
        self.asked.set()
        while not self.may_answer.is_set():
            await asyncio.sleep(0.01)
        length = str(len(self.body)).encode()
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]}
        )
        await send({"type": "http.response.body", "body": self.body})


@pytest.fixture
def application():
    return Application()


@pytest.fixture
def connect(application, monkeypatch):
    """Connect to a server with short timeouts. Options for uvicorn may change them."""
    opened = contextlib.ExitStack()
    servers = []

    def start(**options):
        config = {
            "http": PatientProtocol,
            "lifespan": "off",
            "log_level": "critical",
            "log_config": None,
        }
        app = BodyLimit(application, application.is_known)
        server = uvicorn.Server(uvicorn.Config(app, port=0, **config, **options))
        thread = threading.Thread(target=server.run)
        thread.start()
        servers.append((server, thread))
        until(lambda: server.started, "uvicorn listens")
        return server.servers[0].sockets[0].getsockname()

    def connection(**options):
        if not servers:
            connection.address = start(**options)
        opened.callback((made := socket.create_connection(connection.address, timeout=LIMIT)).close)
        return made

    connection.server = lambda: servers[0][0]
    yield connection
    application.may_answer.set()
    opened.close()
    for server, thread in servers:
        server.should_exit = server.force_exit = True
        thread.join(LIMIT)


@pytest.fixture
def short(monkeypatch):
    """Every timeout is a fifth of a second."""
    monkeypatch.setattr(connections, "HEAD_WITHIN", 0.2)
    monkeypatch.setattr(connections, "READER_EVERY", 0.2)
    monkeypatch.setattr(bodylimit, "WITHIN", 0.2)


def rest(client):
    """Return all bytes until the server closes or resets the connection."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while more := client.recv(65536):
            got += more
    return got


def drip(client, *parts):
    """Send part after part with short pauses, and repeat the last one until it is refused."""
    pause = threading.Event()
    parts = list(parts)
    with contextlib.suppress(ConnectionError):
        for _ in range(int(LIMIT / 0.05)):
            client.sendall(parts.pop(0) if len(parts) > 1 else parts[0])
            pause.wait(0.05)
            client.setblocking(False)
            got = None
            with contextlib.suppress(BlockingIOError):
                got = client.recv(65536)
            client.settimeout(LIMIT)
            if got is not None:
                return got
    return b""


def answer(client):
    """Return one response with a Content-Length as (status, body)."""
    got = b""
    while b"\r\n\r\n" not in got:
        more = client.recv(65536)
        assert more, f"closed after {got!r}"
        got += more
    head, _, body = got.partition(b"\r\n\r\n")
    (length,) = (
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += client.recv(65536)
    return int(head.split()[1]), body


def test_a_client_that_says_nothing_is_closed(connect, short):
    assert rest(connect()) == b""


def test_a_head_that_drips_is_408(connect, short):
    assert drip(connect(), b"GET / HTTP/1.1\r\n", b"X: y\r\n").startswith(b"HTTP/1.1 408 ")


def test_the_head_of_a_further_request_that_drips_is_408(connect, short):
    client = connect()
    client.sendall(GET)
    assert answer(client) == (200, b"hello")
    assert drip(client, b"GET / HTTP/1.1\r\n", b"X: y\r\n").startswith(b"HTTP/1.1 408 ")


def test_a_head_that_begins_behind_a_whole_request_is_timed_too(connect, short, application):
    application.may_answer.clear()
    client = connect()
    client.sendall(GET + b"GET / HT")
    assert application.asked.wait(LIMIT)
    application.may_answer.set()
    assert answer(client) == (200, b"hello")
    assert rest(client).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (POST, b""),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
    ids=["silent", "dripping"],
)
def test_a_body_that_does_not_come_is_408_in_the_shape_of_every_error(connect, short, head, part):
    got = b""
    for _ in range(5):  # a byte that arrives after the close resets the connection and the answer
        client = connect()
        got = drip(client, head, part)
        got += rest(client)
        if got:
            break
    assert got.startswith(b"HTTP/1.1 408 ")
    assert json.loads(got.partition(b"\r\n\r\n")[2])["error"]["code"] == errors.TooSlow.code


def test_a_refused_body_that_drips_is_413_and_earns_no_time(connect, short, monkeypatch):
    monkeypatch.setattr(bodylimit, "SPEED", 0.01)
    got = drip(connect(), b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\nx", b"x")
    assert got.startswith(b"HTTP/1.1 413 ")


def test_an_answer_that_takes_longer_than_every_patience_arrives(connect, short, application):
    application.may_answer.clear()
    client = connect()
    client.sendall(POST + b"0123456789")
    assert application.asked.wait(LIMIT)
    assert rest(connect()) == b""  # so much time has passed that a silent connection was closed
    application.may_answer.set()
    assert answer(client) == (200, b"hello")


def test_a_body_that_keeps_coming_has_more_time(connect, monkeypatch):
    monkeypatch.setattr(bodylimit, "WITHIN", 0.5)
    monkeypatch.setattr(bodylimit, "SPEED", 1)
    client = connect()
    pause = threading.Event()
    client.sendall(POST)
    for each in b"0123456789":
        client.sendall(bytes([each]))
        pause.wait(0.1)
    assert answer(client) == (200, b"hello")


def test_the_body_timeout_excludes_the_time_the_server_itself_needs(connect, short, application):
    application.may_answer.clear()
    client = connect()
    client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.sendall(b"%x\r\n%s\r\n" % (70_000, b"x" * 70_000))
    assert application.asked.wait(LIMIT)
    assert rest(connect()) == b""
    application.may_answer.set()
    client.sendall(b"0\r\n\r\n")
    assert answer(client) == (200, b"hello")


def test_an_answer_that_nobody_reads_is_given_up(connect, short, application):
    application.body = b"x" * LARGE
    client = connect()
    client.sendall(GET)
    until(lambda: connect.server().server_state.total_requests, "the answer is written")
    until(lambda: not connect.server().server_state.connections, "the connection is closed")
    assert len(rest(client)) < LARGE


def test_an_answer_that_is_read_in_pieces_arrives_whole(connect, monkeypatch, application):
    monkeypatch.setattr(connections, "READER_EVERY", 0.5)
    monkeypatch.setattr(connections, "READER_SPEED", 1)
    application.body = b"x" * LARGE
    client = connect()
    pause = threading.Event()
    got = 0
    client.sendall(GET)
    while got < LARGE:
        more = len(client.recv(1024 * 1024))
        assert more
        got += more
        pause.wait(0.02)


def test_over_the_limit_the_client_that_was_waited_for_longest_makes_room(connect, settings):
    settings.MAX_CONNECTIONS = 3
    silent = connect()
    dripping = connect()
    idle = connect()
    dripping.sendall(b"GET / HT")
    idle.sendall(GET)
    assert answer(idle)[0] == 200
    late = connect()
    late.sendall(GET)
    assert answer(late) == (200, b"hello")
    assert rest(silent) == b""
    another = connect()
    another.sendall(GET)
    assert answer(another) == (200, b"hello")
    assert rest(dripping) == b""
    idle.sendall(GET)
    assert answer(idle)[0] == 200


def test_over_the_limit_one_that_drips_a_body_makes_room(connect, settings):
    settings.MAX_CONNECTIONS = 1
    dripping = connect()
    dripping.sendall(POST + b"0")
    late = connect()
    late.sendall(GET)
    assert answer(late) == (200, b"hello")
    assert rest(dripping) == b""


def test_requests_that_are_being_answered_keep_their_place(connect, settings, application):
    settings.MAX_CONNECTIONS = 1
    application.may_answer.clear()
    busy = connect()
    busy.sendall(GET)
    assert application.asked.wait(LIMIT)
    assert rest(connect()).startswith(b"HTTP/1.1 503 ")
    application.may_answer.set()
    assert answer(busy) == (200, b"hello")


def test_a_connection_is_kept_for_as_long_as_the_setting_says(connect):
    """A proxy keeps a connection longer than uvicorn's default of 5 seconds, and then sends 502."""
    client = connect(timeout_keep_alive=1)
    client.sendall(GET)
    assert answer(client) == (200, b"hello")
    assert rest(client) == b""


def test_the_web_process_keeps_connections_longer_than_proxies_do(settings):
    given = webserver.arguments()
    kept = int(given[given.index("--timeout-keep-alive") + 1])
    assert kept == settings.KEEP_ALIVE
    assert kept > 120  # Caddy's; nginx has 60 seconds, Traefik and Go 90
    assert given[given.index("--http") + 1] == "certctrl.connections:PatientProtocol"


@pytest.mark.parametrize(("behind", "believes"), [(False, False), (True, True)])
def test_forwarded_headers_are_believed_only_behind_a_proxy(settings, behind, believes):
    settings.BEHIND_PROXY = behind
    assert ("--no-proxy-headers" not in webserver.arguments()) is believes
