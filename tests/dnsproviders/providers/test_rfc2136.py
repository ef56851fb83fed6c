"""The RFC 2136 adapter against Knot DNS, BIND and PowerDNS."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.renderer
import pytest

from certctrl import clock, outgoing
from certctrl.errors import Invalid, MissingField
from dnsclient.nameservers import Zone
from dnsproviders.base import Field, ProviderError
from dnsproviders.providers import rfc2136
from dnsproviders.providers.rfc2136 import (
    ALGORITHMS,
    RFC2136,
    checked_key_name,
    checked_server,
    checked_tsig_secret,
)
from tests.dnsproviders.making import APEX, WILDCARD, record_of
from tests.dnsproviders.nameserver import (
    BIND_BY_ADDRESS,
    BIND_VIEWS,
    BIND_WITHOUT_QUERIES,
    SECRET,
    WRONG,
    NameServer,
    running,
)
from tests.servers import free_port

ZONE = "lab.test"
NAME = "_acme-challenge.lab.test"


RARE = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("knotd", "pdns_server")]


@pytest.fixture(params=["named", *RARE], scope="module")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NameServer]:
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
    assert (
        server.provider().cleanup(record_of(ZONE, APEX, name="_acme-challenge.never.lab.test")) == 0
    )


def test_the_zone_is_the_longest_that_the_server_has(server: NameServer) -> None:
    assert server.provider().zone_of("_acme-challenge.www.lab.test") == "lab.test"
    assert server.provider().zone_of("_acme-challenge.www.deep.lab.test") == "deep.lab.test"
    assert server.provider().zone_of("lab.test") == "lab.test"


def test_a_name_of_a_zone_that_the_server_lacks_is_not_found(server: NameServer) -> None:
    error = raised_by(server.provider().zone_of, "_acme-challenge.www.example.com")
    assert (error.code, error.permanent) == ("dns_zone_not_found", True)


def test_a_name_that_is_delegated_to_others_is_not_written_above_the_cut(
    server: NameServer,
) -> None:
    error = raised_by(server.provider().zone_of, "_acme-challenge.elsewhere.lab.test")
    assert (error.code, error.permanent) == ("dns_zone_not_found", True)
    assert "delegates" in error.what


@pytest.mark.parametrize(
    ("secret", "key_name"),
    [(WRONG, "certctrl.key"), (SECRET, "unknown.key")],
    ids=["secret", "name"],
)
def test_a_wrong_key_is_refused_whatever_is_asked(
    server: NameServer, secret: str, key_name: str
) -> None:
    provider = server.provider(secret=secret, key_name=key_name)
    for error in (
        raised_by(provider.zone_of, NAME),
        raised_by(provider.present, record_of(ZONE, APEX, name=NAME)),
        raised_by(provider.cleanup, record_of(ZONE, APEX, name=NAME)),
    ):
        assert (error.code, error.permanent) == ("dns_credential_refused", True)


def test_a_key_that_may_not_update_is_refused(server: NameServer) -> None:
    error = raised_by(
        server.provider(key_name="readonly.key").present, record_of(ZONE, APEX, name=NAME)
    )
    assert (error.code, error.permanent) == ("dns_credential_refused", True)


def test_a_check_proves_the_key_where_the_server_looks_at_it(server: NameServer) -> None:
    good = {"key_name": "certctrl.key", "server": "localhost"}
    # Knot checks keys only within its zones, and the check has no name in them.
    if server.kind == "knotd":
        assert raised_by(server.provider(**good).check).code == "dns_refused"
    else:
        server.provider(**good).check()
    server.provider(**good, zone=ZONE).check()
    known = {"named": "dns_credential_refused"}.get(server.kind, "dns_refused")
    assert raised_by(server.provider(secret=WRONG).check).code == known
    assert raised_by(server.provider(key_name="unknown.key").check).code == known


def test_a_wrong_clock_and_a_wrong_key_have_different_codes(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    error = raised_by(server.provider().present, record_of(ZONE, APEX, name=NAME))
    assert "clock" in error.what
    if server.kind != "pdns_server":  # says no more than REFUSED
        assert (error.code, error.permanent) == ("dns_refused", False)


def test_a_port_without_a_server_is_unreachable() -> None:
    assert (
        raised_by(NameServer("none", free_port()).provider().zone_of, NAME).code
        == "dns_unreachable"
    )


def test_a_server_that_stays_silent_is_dropped_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rfc2136, "PATIENCE", 30)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        provider = NameServer("silent", listening.getsockname()[1]).provider()
        began = clock.monotonic()
        with clock.limit(0.3):
            assert raised_by(provider.zone_of, NAME).code == "dns_unreachable"
        assert clock.monotonic() - began < rfc2136.PATIENCE


def at(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """Give the server's name an address for each of these ports."""
    monkeypatch.setattr(
        outgoing, "resolve", lambda host, port: [("127.0.0.1", each) for each in ports]
    )


def test_an_update_that_one_address_took_goes_to_no_other(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        at(monkeypatch, silent.getsockname()[1], server.port)
        with clock.limit(0.5):
            error = raised_by(
                server.provider(secret=WRONG).present, record_of(ZONE, APEX, name=NAME)
            )
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


# --- Servers that answer fewer questions than they take updates ---


@pytest.fixture(scope="module")
def secretive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NameServer]:
    with running(
        "named", tmp_path_factory.mktemp("secretive"), BIND_WITHOUT_QUERIES, "127.0.0.2"
    ) as found:
        yield found


@pytest.fixture(scope="module")
def by_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NameServer]:
    with running("named", tmp_path_factory.mktemp("by_address"), BIND_BY_ADDRESS) as found:
        yield found


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NameServer]:
    with running("named", tmp_path_factory.mktemp("views"), BIND_VIEWS) as found:
        yield found


@pytest.fixture(scope="module")
def secondary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NameServer]:
    with running("nsd", tmp_path_factory.mktemp("nsd")) as found:
        yield found


def goes_through(
    server: NameServer, looked_at: NameServer, source: str = "127.0.0.1", **public: object
) -> None:
    """Find the zone, write, and remove again."""
    zone = server.provider(**public).zone_of("_acme-challenge.a.lab.test")
    record = record_of(zone, APEX, name="_acme-challenge.a.lab.test")
    server.provider(**public).present(record)
    assert looked_at.txt(record.name, source) == {APEX}
    server.provider(**public).cleanup(record)
    assert looked_at.txt(record.name, source) == set()


def test_a_server_that_answers_nobody_but_the_key_is_asked_with_the_key(
    secretive: NameServer,
) -> None:
    goes_through(secretive, secretive, "127.0.0.2")


def test_a_server_that_answers_no_query_shows_its_zones_by_updates(
    server: NameServer,
) -> None:
    def make(wire: bytes) -> bytes:
        query = dns.message.from_wire(wire, keyring=False)  # type: ignore[arg-type]
        is_question = query.opcode() == dns.opcode.QUERY
        return unsigned(query, dns.rcode.REFUSED) if is_question else ask_wire(server.port, wire)

    with answering(make) as strange:
        assert strange.provider().zone_of("_acme-challenge.www.deep.lab.test") == "deep.lab.test"
        goes_through(strange, server)
        error = raised_by(strange.provider().zone_of, "_acme-challenge.example.com")
        assert (error.code, error.permanent) == ("dns_zone_not_found", True)
        assert "give its name in `zone`" in error.what


def unsigned(
    query: dns.message.Message, rcode: dns.rcode.Rcode, error: dns.rcode.Rcode | None = None
) -> bytes:
    answer = dns.message.make_response(query)
    answer.set_rcode(rcode)
    answer.tsig = None
    asked = query.tsig
    if error is not None and asked is not None:
        rdata = (asked[0].algorithm, asked[0].time_signed, 300, b"", query.id, error, b"")
        answer.tsig = dns.renderer._make_tsig(query.keyname, *rdata)  # type: ignore[no-untyped-call]
        answer.want_tsig_sign = False
    return framed(answer.to_wire())


def framed(wire: bytes) -> bytes:
    return len(wire).to_bytes(2, "big") + wire


def ask_wire(port: int, wire: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as sock, sock.makefile("rb") as stream:
        sock.sendall(framed(wire))
        head = stream.read(2)
        return head + stream.read(int.from_bytes(head, "big"))


ODD_ANSWERS = {
    "NOTAUTH": lambda query: unsigned(query, dns.rcode.NOTAUTH),
    "REFUSED": lambda query: unsigned(query, dns.rcode.REFUSED),
    "FORMERR": lambda query: unsigned(query, dns.rcode.FORMERR),
    "SERVFAIL": lambda query: unsigned(query, dns.rcode.SERVFAIL),
    "BADSIG": lambda query: unsigned(query, dns.rcode.NOTAUTH, dns.rcode.BADSIG),
    "BADKEY": lambda query: unsigned(query, dns.rcode.NOTAUTH, dns.rcode.BADKEY),
    "no signature": lambda query: unsigned(query, dns.rcode.NOERROR),
    "silence": None,
}


@pytest.mark.parametrize("odd", list(ODD_ANSWERS))
def test_a_server_that_answers_no_signed_question_is_asked_unsigned(
    server: NameServer, odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signed updates work. Signed questions get no proper answer; all else is a real server."""
    monkeypatch.setattr(rfc2136, "PATIENCE", 0.5)

    def make(wire: bytes) -> bytes | None:
        query = dns.message.from_wire(wire, keyring=False)  # type: ignore[arg-type]
        if query.opcode() == dns.opcode.QUERY and query.tsig is not None:
            answer = ODD_ANSWERS[odd]
            return answer(query) if answer else None
        return ask_wire(server.port, wire)

    with answering(make) as strange:
        goes_through(strange, server)
        strange.provider(zone=ZONE).check()
        error = raised_by(strange.provider(secret=WRONG).zone_of, NAME)
        assert (error.code, error.permanent) == ("dns_credential_refused", True)


def test_a_given_zone_is_taken_as_it_is_and_asked_for_nowhere(server: NameServer) -> None:
    assert (
        NameServer("none", free_port()).provider(zone=ZONE).zone_of("_acme-challenge.a.b.lab.test")
        == ZONE
    )
    error = raised_by(
        NameServer("none", free_port()).provider(zone=ZONE).zone_of, "_acme-challenge.example.com"
    )
    assert (error.code, error.permanent) == ("dns_zone_not_found", True)
    assert "is not inside lab.test" in error.what
    goes_through(server, server, zone=ZONE)


def test_a_server_that_authorizes_by_address_needs_no_key(by_address: NameServer) -> None:
    by_address.provider(key_name="").check()
    goes_through(by_address, by_address, key_name="")
    error = raised_by(
        by_address.provider(key_name="").present,
        record_of("deep.lab.test", APEX, name="a.deep.lab.test"),
    )
    assert (error.code, error.permanent) == ("dns_credential_refused", True)
    assert "this address" in error.what


def test_a_view_that_only_the_key_sees_is_reported(views: NameServer) -> None:
    provider = views.provider()
    assert provider.zone_of(NAME) == ZONE
    public = Zone(ZONE, origins=frozenset(["ns1.lab.test. hostmaster.lab.test."]))
    assert "another zone lab.test than resolvers see" in provider.doubt(ZONE, NAME, public)
    assert "inside.lab.test." in provider.doubt(ZONE, NAME, public)
    same = Zone(ZONE, origins=frozenset(["inside.lab.test. hostmaster.lab.test."]))
    assert provider.doubt(ZONE, NAME, same) == ""
    deeper = Zone("deep.lab.test", origins=public.origins)
    assert "resolvers see it in the zone deep.lab.test" in provider.doubt(
        ZONE, "a.deep.lab.test", deeper
    )


def test_a_zone_of_another_view_is_not_written_to(views: NameServer) -> None:
    error = raised_by(views.provider().zone_of, "_acme-challenge.other.test")
    assert (error.code, error.permanent) == ("dns_zone_not_found", True)
    assert "another view" in error.what


def test_a_server_without_updates_is_permanent_and_says_what_to_do(
    secondary: NameServer,
) -> None:
    assert secondary.provider(key_name="").zone_of(NAME) == ZONE
    error = raised_by(secondary.provider(key_name="").present, record_of(ZONE, APEX, name=NAME))
    assert (error.code, error.permanent) == ("dns_refused", True)
    assert "NOTIMP" in error.what
    assert "primary" in error.what


@contextmanager
def answering(make: object) -> Iterator[NameServer]:
    """A server that sends the result of `make` for each TCP query, or nothing for None."""

    held: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            with sock:
                wire = sock.recv(65535)
                answer = make(wire[2:])  # type: ignore[operator]
                if answer is not None:
                    sock.sendall(answer)
                else:
                    held.append(sock.dup())

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield NameServer("odd", listening.getsockname()[1])
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for each in held:
                each.close()


def test_something_that_speaks_no_dns_is_a_bad_answer() -> None:
    with answering(lambda wire: b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 20000) as server:
        assert raised_by(server.provider().zone_of, NAME).code == "dns_bad_answer"


def test_an_answer_without_a_signature_proves_nothing() -> None:
    def without_signature(wire: bytes) -> bytes:
        query = dns.message.from_wire(wire, keyring=False)  # type: ignore[arg-type]
        answer = dns.message.make_response(query)
        answer.tsig = None
        answer.flags |= dns.flags.AA
        packed = answer.to_wire()
        return len(packed).to_bytes(2, "big") + packed

    with answering(without_signature) as server:
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
    assert raised_by(
        NameServer("none", free_port()).provider(algorithm=algorithm).zone_of, NAME
    ).code == ("dns_unreachable")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("ns1.example.com.", "ns1.example.com"),
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:db8::1]", "2001:db8::1"),
    ],
)
def test_a_server_is_a_host_name_or_an_address(given: str, kept: str) -> None:
    assert checked_server(given) == kept


@pytest.mark.parametrize(
    "bad", ["ns1.example.com:53", "a b", "https://ns1", "", "-x.example", "x" * 64 + ".example"]
)
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


def field(name: str) -> Field:
    return next(each for each in RFC2136.fields if each.name == name)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("HMAC-SHA256", "hmac-sha256"),
        ("hmac-sha256.", "hmac-sha256"),
        ("hmac_sha512", "hmac-sha512"),
        ('"hmac-sha384";', "hmac-sha384"),
        ("sha-224", "hmac-sha224"),
        ("HmacSHA1", "hmac-sha1"),
        ("HMAC-MD5.SIG-ALG.REG.INT", "hmac-md5"),
        ("hmac-md5.sig-alg.reg.int.", "hmac-md5"),
    ],
)
def test_an_algorithm_is_known_by_every_usual_spelling(given: str, kept: str) -> None:
    assert field("algorithm").clean(given) == kept


@pytest.mark.parametrize("bad", ["hmac-sha3", "gss-tsig", "rsa"])
def test_another_algorithm_is_refused_with_those_there_are(bad: str) -> None:
    with pytest.raises(Invalid, match="must be one of hmac-sha256"):
        field("algorithm").clean(bad)


@pytest.mark.parametrize(
    "given",
    [
        SECRET + "\n",
        f'"{SECRET}";',
        f"  {SECRET[:20]}\n\t{SECRET[20:]} ",
        f"{SECRET[:20]} {SECRET[20:]}",
    ],
)
def test_a_secret_is_taken_as_it_is_pasted(given: str) -> None:
    assert field("secret").clean(given) == SECRET


def test_a_zone_and_a_key_name_are_taken_as_they_are_pasted() -> None:
    assert field("zone").clean("Example.COM.") == "example.com"
    assert field("key_name").clean('"certctrl.key"') == "certctrl.key"
    for bad in (".", "a..b"):
        with pytest.raises(Invalid, match="must be the zone's name"):
            field("zone").clean(bad)


@pytest.mark.parametrize(
    ("given", "missing"), [({"key_name": "k"}, "secret"), ({"secret": "c2VjcmV0"}, "key_name")]
)
def test_half_a_key_is_refused(given: dict[str, str], missing: str) -> None:
    with pytest.raises(MissingField, match=f"{missing} is missing"):
        RFC2136.check_together(given)


def test_updates_without_a_key_and_weak_algorithms_are_marked() -> None:
    assert "weak" in RFC2136.note({"server": "ns1.example.com"})
    assert "hmac-md5 is weak" in RFC2136.note({"key_name": "k", "algorithm": "hmac-md5"})
    assert RFC2136.note({"key_name": "k", "algorithm": "hmac-sha256"}) == ""
