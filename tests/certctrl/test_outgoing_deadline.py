"""A request ends at its deadline, even if the other side sends its bytes slowly."""

import gzip
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from certctrl import clock, outgoing
from tests.fakes.dripping import OK, Dribble, certificate_for, whole

LIMIT = 0.5  # seconds
HANGS = 25.0  # a call that takes so long did not keep its deadline


@pytest.fixture
def ends_in_time():
    """A call must take nearly its whole limit, because a refusal at once proves nothing."""
    began = clock.monotonic()
    yield
    assert LIMIT * 0.5 < clock.monotonic() - began < HANGS


def is_dropped(url, **kwargs):
    with clock.limit(LIMIT), pytest.raises(outgoing.DeadlineExceeded) as caught:
        outgoing.session().get(url, **kwargs)
    assert "did not answer in time" in str(caught.value)


@pytest.mark.usefixtures("ends_in_time")
class TestDropped:
    def test_a_server_that_drips_its_headers(self, serve):
        server = serve(OK, drip=b"x")
        is_dropped(server.url)
        assert server.hung_up.wait(HANGS)

    def test_a_server_that_drips_header_lines(self, serve):
        is_dropped(serve(OK, drip=b"X-More: y\r\n").url)

    def test_a_server_that_goes_on_with_100_continue(self, serve):
        is_dropped(
            serve(b"HTTP/1.1 100 Continue\r\n\r\n", drip=b"HTTP/1.1 100 Continue\r\n\r\n").url
        )

    def test_a_server_that_drips_its_body(self, serve):
        server = serve(OK + b"Content-Length: 1000\r\n\r\n", drip=b"x")
        is_dropped(server.url)
        assert server.hung_up.wait(HANGS)

    def test_a_server_that_drips_chunks(self, serve):
        is_dropped(serve(OK + b"Transfer-Encoding: chunked\r\n\r\n", drip=b"1\r\nx\r\n").url)

    def test_a_server_that_drips_compressed_bytes(self, serve):
        start = gzip.compress(b"x" * 1000)[:12]
        is_dropped(
            serve(
                OK + b"Content-Encoding: gzip\r\nContent-Length: 900\r\n\r\n" + start, drip=b"\x00"
            ).url
        )

    def test_a_body_without_an_end(self, serve):
        is_dropped(serve(OK + b"\r\n", drip=b"x").url)

    def test_a_server_that_says_nothing(self, serve):
        is_dropped(serve(b"").url)

    def test_a_request_whose_caller_gives_it_longer(self, serve):
        is_dropped(serve(OK, drip=b"x").url, timeout=60)

    def test_a_server_that_drips_headers_over_tls(self, serve, tmp_path, settings):
        context, root = certificate_for(tmp_path, "127.0.0.1")
        settings.ACME_CA_BUNDLE = str(root)
        is_dropped(serve(OK, drip=b"x", context=context).url)

    def test_a_server_that_drips_its_body_over_tls(self, serve, tmp_path, settings):
        context, root = certificate_for(tmp_path, "127.0.0.1")
        settings.ACME_CA_BUNDLE = str(root)
        is_dropped(serve(OK + b"Content-Length: 1000\r\n\r\n", drip=b"x", context=context).url)

    def test_a_server_that_drips_the_tls_handshake(self, serve):
        server = serve(kind=Dribble)
        is_dropped(f"https://127.0.0.1:{server.port}/")

    def test_a_server_that_never_takes_the_connection(self):
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            waiting = [socket.socket() for _ in range(4)]
            for each in waiting:  # fill the backlog: the kernel ignores who comes next
                each.setblocking(False)
                each.connect_ex(full.getsockname())
            is_dropped(f"http://127.0.0.1:{full.getsockname()[1]}/")
            for each in waiting:
                each.close()

    def test_a_kept_connection_that_starts_to_drip(self, serve):
        server = serve(whole(b"first"), OK)
        with clock.limit(LIMIT):
            assert outgoing.session().get(server.url).content == b"first"
        server.drip = b"x"
        is_dropped(server.url)
        assert server.connections == 1

    def test_redirects_that_each_take_a_while(self, serve):
        second = serve(OK, drip=b"x")
        is_dropped(
            serve(
                b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: "
                + second.url.encode()
                + b"\r\n\r\n"
            ).url
        )
        assert second.requests

    def test_a_resolver_that_does_not_answer(self, monkeypatch):
        hangs = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: hangs.wait(HANGS))
        with (
            clock.limit(LIMIT),
            pytest.raises(outgoing.DeadlineExceeded, match=r"ca\.example did not resolve"),
        ):
            outgoing.session().get("https://ca.example/")
        hangs.set()

    def test_a_request_whose_caller_gives_it_less(self, serve):
        with pytest.raises(outgoing.DeadlineExceeded):
            outgoing.session().get(serve(OK, drip=b"x").url, timeout=LIMIT)


def test_outside_of_a_turn_the_limit_of_a_call_holds(serve, settings):
    settings.CALL_LIMIT = LIMIT
    with pytest.raises(outgoing.DeadlineExceeded):
        outgoing.session().get(serve(OK, drip=b"x").url)


def test_no_time_left_means_no_call(serve):
    server = serve(whole())
    with clock.limit(0), pytest.raises(requests.RequestException):
        outgoing.session().get(server.url)
    assert not server.requests


def test_a_slow_server_that_keeps_within_the_time_is_heard(serve):
    server = serve(OK + b"Content-Length: 3\r\n\r\n", drip=b"x")
    with clock.limit(HANGS):
        assert outgoing.session().get(server.url).content == b"xxx"


def test_a_silent_address_leaves_time_for_the_next(serve, monkeypatch):
    server = serve(whole(b"heard"))
    with socket.create_server(("127.0.0.2", 0), backlog=0) as full:
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        found = [(2, 1, 6, "", full.getsockname()), (2, 1, 6, "", ("127.0.0.1", server.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
        with clock.limit(4 * LIMIT):
            assert outgoing.session().get("http://ca.example/").content == b"heard"
        for each in waiting:
            each.close()


def test_threads_have_deadlines_of_their_own(serve):
    slow = serve(OK + b"Content-Length: 20\r\n\r\n", drip=b"x")  # a second

    def call(limit: float) -> bytes | None:
        with clock.limit(limit):
            try:
                return outgoing.session().get(slow.url).content
            except outgoing.DeadlineExceeded:
                return None

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(call, [LIMIT, HANGS])) == [None, b"x" * 20]
