"""One TLS handshake with a server on loopback shows which certificate it serves."""

import ssl

import pytest

from certctrl import addresses
from certctrl.turns import Trouble
from issuance import probes
from issuance.probes import Target, handshake
from tests.fakes.tlsserver import SSL_REQUEST, TLSServer, files_of


@pytest.fixture(autouse=True)
def allow_loopback(settings):
    settings.ALLOW_PRIVATE = ["127.0.0.1"]


@pytest.fixture
def version(world, account, credential):
    certificate, _ = world.create(account, credential)
    world.settle()
    certificate.refresh_from_db()
    return certificate.current


@pytest.fixture
def pem(version, tmp_path):
    return files_of(version, tmp_path)


def trouble_of(server, **changes) -> Trouble:
    with pytest.raises(Trouble) as caught:
        probes.look(Target("127.0.0.1", server.port)._replace(**changes))
    return caught.value


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("starttls", "says", "answers", "heard"),
    [
        ("", b"", (), []),
        (
            "smtp",
            b"220-mx\r\n220 ready\r\n",
            (b"250-mx\r\n250 STARTTLS\r\n", b"220 go\r\n"),
            [b"EHLO certctrl.invalid\r\n", b"STARTTLS\r\n"],
        ),
        (
            "imap",
            b"* OK [CAPABILITY STARTTLS] ready\r\n",
            (b"* BYE?\r\na OK go\r\n",),
            [b"a STARTTLS\r\n"],
        ),
        ("postgres", b"", (b"S",), [SSL_REQUEST]),
    ],
)
def test_a_handshake_shows_the_served_certificate(version, pem, starttls, says, answers, heard):
    with TLSServer(pem, says, answers) as server:
        found = probes.look(Target("127.0.0.1", server.port, "www.example.com", starttls))
    assert (found.serial, found.fingerprint) == (version.serial, version.fingerprint)
    assert found.not_after == version.not_after
    assert server.heard == heard
    assert server.names == ["www.example.com"]


@pytest.mark.django_db
def test_without_a_name_no_sni_is_sent(version, pem):
    with TLSServer(pem) as server:
        assert probes.look(Target("127.0.0.1", server.port)).serial == version.serial
    assert server.names == [None]


@pytest.mark.parametrize(
    ("starttls", "says", "answers"),
    [
        ("smtp", b"554 no\r\n", (b"502 no\r\n", b"502 no\r\n")),
        ("smtp", b"220 mx\r\n", (b"250 mx\r\n", b"454 later\r\n")),
        ("smtp", b"220-mx\r\n" * 101, ()),
        ("smtp", b"x" * 5000, ()),
        ("imap", b"* OK\r\n", (b"a NO\r\n",)),
        ("imap", b"* BYE\r\n", (b"a OK\r\n",)),
        ("imap", b"* OK\r\n", (b"* OK\r\n" * 101,)),
        ("postgres", b"", (b"N",)),
        ("", b"HTTP/1.1 400 Bad Request\r\n\r\n", ()),
    ],
)
def test_a_server_without_tls_is_said_to_have_none(starttls, says, answers):
    with TLSServer(None, says, answers) as server:
        trouble = trouble_of(server, starttls=starttls)
    assert trouble.code == "probe_no_tls"
    assert trouble.what.startswith(f"127.0.0.1:{server.port} ")
    assert trouble.what.endswith(".")


def test_a_silent_server_ends_at_the_deadline(monkeypatch):
    monkeypatch.setattr(handshake, "SECONDS", 0.05)
    with TLSServer(None) as server:
        assert trouble_of(server).code == "probe_unreachable"
        assert trouble_of(server, starttls="imap").code == "probe_unreachable"


def test_a_closed_port_is_unreachable():
    with TLSServer(None) as server:
        port = server.port
    with pytest.raises(Trouble, match=rf"127\.0\.0\.1:{port} could not be reached"):
        probes.look(Target("127.0.0.1", port))


def test_a_private_address_is_refused_before_a_connection(settings):
    settings.ALLOW_PRIVATE = []
    with TLSServer(None) as server:
        assert trouble_of(server).code == "probe_refused"
        assert trouble_of(server, address="localhost").code == "probe_refused"
        settings.ALLOW_PRIVATE = ["true"]
        settings.ALLOW_PRIVATE_FOR_TENANTS = []
        with addresses.named_by_tenant(True):
            assert trouble_of(server).code == "probe_refused"


def test_an_unknown_name_is_refused():
    with pytest.raises(Trouble, match="does not resolve") as caught:
        probes.look(Target("absent.invalid", 443))
    assert caught.value.code == "probe_refused"


def test_a_certificate_that_is_no_certificate_is_no_tls(monkeypatch):
    monkeypatch.setattr(ssl.SSLSocket, "getpeercert", lambda *_, **__: b"junk")
    monkeypatch.setattr(ssl.SSLSocket, "do_handshake", lambda *_, **__: None)
    with TLSServer(None) as server:
        assert "cannot be read" in trouble_of(server).what


def test_an_ipv6_address_is_written_in_brackets():
    assert str(Target("::1", 25)) == "[::1]:25"
    assert str(Target("mx.example.com", 25)) == "mx.example.com:25"
