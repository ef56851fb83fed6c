"""Which certificate an address serves, also behind STARTTLS."""

import pytest

from certctrl_agent import handshake
from certctrl_agent.errors import CheckError
from certctrl_agent.plan import TlsCheck
from tests.agent import tlsservers
from tests.agent.tlsservers import tls_server
from tests.servers import free_port

GREETINGS = {"": None, "smtp": tlsservers.smtp, "imap": tlsservers.imap}
GREETINGS["postgres"] = tlsservers.postgres


def check(port: int, starttls: str = "", sni: str = "www.example.com") -> TlsCheck:
    return TlsCheck("127.0.0.1", port, sni, starttls, 0)


@pytest.mark.parametrize("protocol", GREETINGS)
def test_the_wanted_certificate_is_confirmed(tmp_path, authority, protocol) -> None:
    issued = authority.issue()
    with tls_server(tmp_path, issued, greeting=GREETINGS[protocol]) as server:
        handshake.confirm(check(server.port, protocol), issued.leaf)
        assert server.names == ["www.example.com"]


@pytest.mark.parametrize("protocol", GREETINGS)
def test_another_certificate_is_named_by_its_serial(tmp_path, authority, protocol) -> None:
    served, wanted = authority.issue(), authority.issue()
    with (
        tls_server(tmp_path, served, greeting=GREETINGS[protocol]) as server,
        pytest.raises(CheckError, match=f"{served.serial}.*{wanted.serial}"),
    ):
        handshake.confirm(check(server.port, protocol), wanted.leaf)


@pytest.mark.parametrize("is_rsa", [True, False])
def test_a_server_with_two_kinds_of_keys_is_asked_for_ours(tmp_path, authority, is_rsa) -> None:
    both = [authority.issue(is_rsa=True), authority.issue(is_rsa=False)]
    with tls_server(tmp_path, *both) as server:
        handshake.confirm(check(server.port), both[0 if is_rsa else 1].leaf)


def test_a_check_without_name_sends_none(tmp_path, authority) -> None:
    issued = authority.issue()
    with tls_server(tmp_path, issued) as server:
        handshake.confirm(check(server.port, sni=""), issued.leaf)
        assert server.names == [None]


def test_nothing_that_listens_is_an_error(authority) -> None:
    with pytest.raises(CheckError, match="completes no TLS handshake"):
        handshake.confirm(check(free_port()), authority.issue().leaf)


@pytest.mark.parametrize(
    ("protocol", "answer"),
    [
        ("", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        ("smtp", b"554 no service\r\n"),
        ("smtp", b"x" * 5000),
        ("smtp", b"220-more\r\n" * 500),
        ("imap", b"+ what\r\n"),
        ("postgres", b"N"),
    ],
)
def test_a_server_that_begins_no_tls_is_an_error(tmp_path, authority, protocol, answer) -> None:
    issued = authority.issue()
    greeting = tlsservers.refuses(answer)
    with (
        tls_server(tmp_path, issued, greeting=greeting) as server,
        pytest.raises(CheckError, match=f"127.0.0.1:{server.port}"),
    ):
        handshake.confirm(check(server.port, protocol), issued.leaf)
