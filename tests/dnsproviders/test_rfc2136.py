"""The RFC 2136 adapter against Knot DNS and BIND."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import pytest

from certctrl import clock, outgoing
from dnsproviders.base import ProviderError
from dnsproviders.rfc2136 import ALGORITHMS, checked_key_name, checked_server, checked_tsig_secret
from tests.dnsproviders.making import APEX, WILDCARD, record_of
from tests.dnsproviders.nameserver import SECRET, WRONG, NameServer, free_port, running

ZONE, NAME = "lab.test", "_acme-challenge.lab.test"


@pytest.fixture(params=["knotd", "named"], scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NameServer]:
    with running(request.param, tmp_path_factory.mktemp(request.param)) as found:
        yield found


def raised_by(call: object, *args: object) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        call(*args)  # type: ignore[operator]
    assert SECRET not in repr(caught.value) + caught.value.what
    assert WRONG not in repr(caught.value) + caught.value.what
    return caught.value


def test_two_values_live_at_one_name_and_each_is_removed_alone(server: NameServer) -> None:
    server.provider().present(record_of(ZONE, APEX, name=NAME))
    server.provider().present(record_of(ZONE, WILDCARD, name=NAME))
    assert server.txt(NAME) == {APEX, WILDCARD}
    assert server.provider().cleanup(record_of(ZONE, APEX, name=NAME)) == 1
    assert server.txt(NAME) == {WILDCARD}
    assert server.provider().cleanup(record_of(ZONE, WILDCARD, name=NAME)) == 1
    assert server.txt(NAME) == set()


def test_presenting_twice_writes_once(server: NameServer) -> None:
    record = record_of(ZONE, APEX, name="_acme-challenge.twice.lab.test")
    server.provider().present(record)
    server.provider().present(record)
    assert server.txt(record.name) == {APEX}
    assert server.provider().cleanup(record) == 1
    assert server.provider().cleanup(record) == 0


def test_cleaning_up_what_is_absent_is_success_and_counts_none(server: NameServer) -> None:
    assert server.provider().cleanup(record_of(ZONE, APEX, name="_acme-challenge.never.lab.test")) == 0


def test_the_zone_is_the_longest_that_the_server_has(server: NameServer) -> None:
    assert server.provider().zone_of("_acme-challenge.www.lab.test") == "lab.test"
    assert server.provider().zone_of("_acme-challenge.www.deep.lab.test") == "deep.lab.test"
    assert server.provider().zone_of("lab.test") == "lab.test"


def test_a_name_of_a_zone_that_the_server_lacks_is_not_found(server: NameServer) -> None:
    error = raised_by(server.provider().zone_of, "_acme-challenge.www.example.com")
    assert (error.code, error.permanent) == ("dns_zone_not_found", True)


def test_a_name_that_is_delegated_to_others_is_not_written_above_the_cut(server: NameServer) -> None:
    error = raised_by(server.provider().zone_of, "_acme-challenge.elsewhere.lab.test")
    assert (error.code, error.permanent) == ("dns_zone_not_found", True)
    assert "leaves" in error.what


@pytest.mark.parametrize(
    ("secret", "key_name"), [(WRONG, "certctrl.key"), (SECRET, "unknown.key")], ids=["secret", "name"]
)
def test_a_wrong_key_is_refused_whatever_is_asked(server: NameServer, secret: str, key_name: str) -> None:
    provider = server.provider(secret=secret, key_name=key_name)
    for error in (
        raised_by(provider.zone_of, NAME),
        raised_by(provider.present, record_of(ZONE, APEX, name=NAME)),
        raised_by(provider.cleanup, record_of(ZONE, APEX, name=NAME)),
    ):
        assert (error.code, error.permanent) == ("dns_credential_refused", True)


def test_a_key_that_may_not_update_is_refused(server: NameServer) -> None:
    error = raised_by(server.provider(key_name="readonly.key").present, record_of(ZONE, APEX, name=NAME))
    assert (error.code, error.permanent) == ("dns_credential_refused", True)


def test_a_check_proves_the_key_where_the_server_looks_at_it(server: NameServer) -> None:
    good = {"key_name": "certctrl.key", "server": "localhost"}
    if server.kind == "knotd":  # looks at keys only within its zones, and no name tells which they are
        assert raised_by(server.provider(**good).check).code == "dns_refused"
    else:
        server.provider(**good).check()
        assert raised_by(server.provider(secret=WRONG).check).code == "dns_credential_refused"
        assert raised_by(server.provider(key_name="unknown.key").check).code == "dns_credential_refused"


def test_a_clock_that_is_off_is_told_apart_from_a_wrong_key(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    error = raised_by(server.provider().present, record_of(ZONE, APEX, name=NAME))
    assert (error.code, error.permanent) == ("dns_refused", False)
    assert "clock" in error.what


def test_nobody_there_is_unreachable() -> None:
    assert raised_by(NameServer("none", free_port()).provider().zone_of, NAME).code == "dns_unreachable"


def test_a_server_that_stays_silent_is_dropped_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        provider = NameServer("silent", listening.getsockname()[1]).provider()
        began = clock.monotonic()
        with clock.limit(0.3):
            assert raised_by(provider.zone_of, NAME).code == "dns_unreachable"
        assert clock.monotonic() - began < 5


def at(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """The server's name has an address for each of these ports."""
    monkeypatch.setattr(outgoing, "resolve", lambda host, port: [("127.0.0.1", each) for each in ports])


def test_an_update_that_one_address_took_goes_to_no_other(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        at(monkeypatch, silent.getsockname()[1], server.port)
        with clock.limit(0.5):
            error = raised_by(server.provider(secret=WRONG).present, record_of(ZONE, APEX, name=NAME))
    assert (error.code, error.permanent) == ("dns_unreachable", False)


def test_the_first_address_that_takes_the_connection_is_asked(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as last:
        last.settimeout(0)
        at(monkeypatch, free_port(), server.port, last.getsockname()[1])
        assert server.provider().zone_of(NAME) == ZONE
        with pytest.raises(BlockingIOError):
            last.accept()


@contextmanager
def answering(make: object) -> Iterator[NameServer]:
    """A server that answers each TCP query with what `make` makes of its bytes."""

    def serve() -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            with sock:
                wire = sock.recv(65535)
                sock.sendall(make(wire[2:]))  # type: ignore[operator]

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield NameServer("odd", listening.getsockname()[1])
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def test_something_that_speaks_no_dns_is_a_bad_answer() -> None:
    with answering(lambda wire: b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 20000) as server:
        assert raised_by(server.provider().zone_of, NAME).code == "dns_bad_answer"


def test_an_answer_without_a_signature_proves_nothing() -> None:
    def unsigned(wire: bytes) -> bytes:
        query = dns.message.from_wire(wire, keyring=False)  # type: ignore[arg-type]
        answer = dns.message.make_response(query)
        answer.tsig = None
        answer.flags |= dns.flags.AA
        packed = answer.to_wire()
        return len(packed).to_bytes(2, "big") + packed

    with answering(unsigned) as server:
        error = raised_by(server.provider().present, record_of(ZONE, APEX, name=NAME))
        assert (error.code, error.permanent) == ("dns_refused", False)
        assert raised_by(server.provider().check).code == "dns_refused"


def test_an_address_that_is_not_allowed_is_never_connected_to(
    settings: object,
) -> None:
    settings.ALLOW_PRIVATE = []  # type: ignore[attr-defined]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        error = raised_by(NameServer("own", listening.getsockname()[1]).provider().zone_of, NAME)
        assert error.code == "dns_unreachable"
        assert "ALLOW_PRIVATE" in error.what
        with pytest.raises(BlockingIOError):
            listening.accept()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_that_is_offered_can_be_signed_with(algorithm: str) -> None:
    assert raised_by(NameServer("none", free_port()).provider(algorithm=algorithm).zone_of, NAME).code == (
        "dns_unreachable"
    )


@pytest.mark.parametrize(
    ("given", "kept"),
    [("ns1.example.com.", "ns1.example.com"), ("192.0.2.1", "192.0.2.1"), ("[2001:db8::1]", "2001:db8::1")],
)
def test_a_server_is_a_host_name_or_an_address(given: str, kept: str) -> None:
    assert checked_server(given) == kept


@pytest.mark.parametrize("bad", ["ns1.example.com:53", "a b", "https://ns1", "", "-x.example", "x" * 64 + ".example"])
def test_anything_else_is_no_server(bad: str) -> None:
    with pytest.raises(ValueError, match="must be a host name"):
        checked_server(bad)


@pytest.mark.parametrize("bad", ["not base64!", "", "AAA"])
def test_a_secret_that_is_no_base64_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        checked_tsig_secret(bad)


@pytest.mark.parametrize("bad", ["x" * 64, "a..b"])
def test_a_key_name_is_a_dns_name(bad: str) -> None:
    with pytest.raises(ValueError, match="name"):
        checked_key_name(bad)
