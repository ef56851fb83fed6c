"""The fault proxy as a process: TLS, kept and dropped connections, and Pebble behind it."""

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from authorities import acme
from certctrl.turns import Trouble
from lab.ca import Authority, write_certificate, write_key
from lab.renewalinfo import ari_id
from lab.upstream import Answer
from lab.webserver import Serve, Server
from tests.authorities.acme.test_pebble import issue
from tests.e2e import pebble
from tests.lab import faulty
from tests.lab.tinyca import TinyCA, new_order, signed
from tests.patience import LIMIT

needs_pebble = pytest.mark.skipif(
    bool(pebble.missing()), reason=f"needs Debian's {pebble.missing()} (apt-get install)"
)


@dataclass
class Line:
    """A proxy in front of a tiny CA, both on real sockets."""

    proxy: faulty.Proxy
    ca: TinyCA
    context: ssl.SSLContext
    connections: set[tuple[str, int]]  # that the CA has seen
    pem: str
    key: str

    def connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            urlsplit(self.proxy.directory_url).netloc, context=self.context, timeout=LIMIT
        )


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> Iterator[Line]:
    folder = tmp_path_factory.mktemp("line")
    ca = TinyCA()
    seen = set()
    root = Authority("wire")
    key = ec.generate_private_key(ec.SECP256R1())
    write_key(folder / "tls.key", key)
    write_certificate(folder / "tls.pem", root.server_certificate(key))
    write_certificate(folder / "root.pem", root.certificate)
    pem = str(folder / "tls.pem")
    private = str(folder / "tls.key")
    context = ssl.create_default_context(cafile=folder / "root.pem")
    with (
        serving("127.0.0.1:0", ca.forward, seen) as port,
        faulty.running(
            folder, f"http://127.0.0.1:{port}/dir", pem, private, suffixes=["test"]
        ) as proxy,
    ):
        yield Line(proxy, ca, context, seen, pem, private)


@contextmanager
def serving(place: str, serve: Serve, seen: set[tuple[str, int]] | None = None) -> Iterator[int]:
    """A CA at HOST:PORT. Return its port, and the clients that connected in `seen`."""
    server = Server(place, serve)
    server.verify_request = lambda request, client: seen is None or seen.add(client) is None
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def asked(line):
    """The requests that the CA got in this test."""
    line.proxy.change(faults=[], limits={"set": [1, 600]})
    line.ca.asked.clear()
    line.ca.answers.clear()
    return line.ca.asked


def send(connection, request, **headers):
    connection.request(
        request.method,
        request.path,
        request.body,
        {"Content-Type": "application/jose+json", **headers},
    )
    response = connection.getresponse()
    return response, response.read()


def test_the_host_that_the_client_called_reaches_the_ca(line, asked):
    connection = line.connect()
    response, _ = send(connection, new_order("a.one.test"))
    assert response.status == 201
    assert asked[-1].headers["Host"] == urlsplit(line.proxy.directory_url).netloc
    assert asked[-1].body == new_order("a.one.test").body


def test_connections_are_kept_on_both_sides(line, asked):
    connection = line.connect()
    send(connection, signed("/x"))
    before = len(line.connections)
    kept = connection.sock
    for _ in range(5):
        response, _ = send(connection, signed("/x"))
        assert response.status == 404
    assert connection.sock is kept
    assert len(line.connections) == before


def test_a_dropped_connection_ends_without_a_byte(line, asked):
    line.proxy.change(faults=[{"do": "drop_after", "times": 1}])
    connection = line.connect()
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError, ssl.SSLError)):
        send(connection, new_order("a.one.test"))
    assert [request.path for request in asked] == ["/order"]
    assert line.proxy.tally["refused"] == {}
    response, _ = send(line.connect(), new_order("a.one.test"))
    assert response.status == 429


def test_two_who_ask_at_once_for_the_last_token_do_not_both_get_it(line, asked):
    line.proxy.change(limits={"set": [1, 600]})
    with ThreadPoolExecutor(8) as people:
        found = list(
            people.map(lambda _: send(line.connect(), new_order("b.one.test"))[0].status, range(16))
        )
    assert sorted(found) == [201] + [429] * 15


def test_a_header_on_several_lines_of_a_response_arrives_whole(line, asked):
    line.ca.answers["/x"] = Answer(200, {"Link": '<a>;rel="up"', "link": '<b>;rel="index"'}, b"")
    response, _ = send(line.connect(), signed("/x"))
    assert response.headers["Link"] == '<a>;rel="up", <b>;rel="index"'


def test_a_client_without_tls_does_not_disturb_others(line, asked):
    with socket.create_connection(
        ("127.0.0.1", urlsplit(line.proxy.directory_url).port), timeout=LIMIT
    ) as plain:
        plain.sendall(b"GET /dir HTTP/1.1\r\nHost: x\r\n\r\n")
        assert send(line.connect(), new_order("c.one.test"))[0].status == 201


def test_a_head_has_no_body(line, asked):
    connection = line.connect()
    for method, has_body in (("HEAD", False), ("GET", True), ("HEAD", False)):
        connection.request(method, "/dir")
        assert bool(connection.getresponse().read()) == has_body


def test_a_ca_that_is_away_is_a_bad_gateway_until_it_is_back(tmp_path, line):
    place = f"127.0.0.1:{pebble.free_ports('later')['later']}"
    with faulty.running(tmp_path, f"http://{place}/dir", line.pem, line.key) as proxy:
        away = replace(line, proxy=proxy)
        response, body = send(away.connect(), new_order("a.one.test"))
        assert (response.status, json.loads(body)["type"]) == (
            502,
            "urn:ietf:params:acme:error:serverInternal",
        )
        with serving(place, line.ca.forward):
            assert send(away.connect(), new_order("a.one.test"))[0].status == 201
        assert proxy.tally["orders"] == 1


# --- Pebble behind it ---


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with pebble.running(tmp_path_factory.mktemp("pebble"), zone="co.uk", nonce_reject=0) as running:
        yield running


@pytest.fixture
def ca(lab, settings):
    settings.ACME_CA_BUNDLE = lab.ca_bundle

    def register(proxy):
        client = acme.AcmeCA(proxy.directory_url, acme.new_account_key(), email="owner@example.com")
        client.register()
        return client

    return register


@pytest.mark.slow
@pytest.mark.e2e
@needs_pebble
def test_a_client_issues_until_a_limit_and_its_certificate_has_a_window(lab, ca):
    with faulty.before(lab, limits={"domain": [2, 600]}) as proxy:
        client = ca(proxy)
        for name in ("a.one.co.uk", "b.one.co.uk"):
            chain, *_ = issue(client, lab, [name])
        with pytest.raises(Trouble) as caught:
            client.new_order(["c.one.co.uk"])
        client.new_order(["c.two.co.uk"])
        leaf = x509.load_pem_x509_certificate(chain.encode())
        window = proxy.session.get(
            f"{proxy.origin}/renewal-info/{ari_id(leaf)}", verify=lab.ca_bundle, timeout=LIMIT
        )
        tally = proxy.tally
    assert caught.value.code == "ca_rate_limited"
    assert 590 < caught.value.retry_after <= 600
    assert 'already issued for "one.co.uk"' in caught.value.what
    assert (tally["orders"], tally["certificates"], tally["refused"]) == (3, 2, {"domain": 1})
    assert set(window.json()["suggestedWindow"]) == {"start", "end"}


@pytest.mark.slow
@pytest.mark.e2e
@needs_pebble
def test_a_client_survives_a_storm_of_nonces_and_a_slow_order(lab, ca):
    rules = [{"do": "bad_nonce", "times": 1, "run": 4}, {"do": "processing", "reads": 3}]
    with faulty.before(lab, faults=rules) as proxy:
        issue(ca(proxy), lab, ["a.three.co.uk"])
        tally = proxy.tally
    assert tally["faults"] == {"bad_nonce": 4, "processing": 1}
    assert tally["certificates"] == 1
