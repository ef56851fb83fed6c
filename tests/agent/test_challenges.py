"""The agent answers challenges: over HTTP, in a webroot, and by TLS-ALPN."""

import contextlib
import http.client
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from authorities.pki import acme_tls_certificate
from certctrl_agent.challenges import FILES, MOST_CLIENTS, Challenges
from certctrl_agent.config import Config
from tests.patience import LIMIT, until

NOW = 1_000.0  # seconds
TOKEN = "abc-DEF_123"
PROOF = "abc-DEF_123.thumbprint"
WELL_KNOWN = "/.well-known/acme-challenge/"


class Moment:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def moment() -> Moment:
    return Moment()


@pytest.fixture
def make(state, lines, moment):
    made: list[Challenges] = []

    def challenges(**config: Any) -> Challenges:
        made.append(Challenges(state, Config(challenges=True, **config), lines.append, moment))
        return made[-1]

    yield challenges
    for each in made:
        each.close()


def start(kind: str, number: str = "c1", **ref: Any) -> dict[str, Any]:
    ref = {"challenge_id": number, "token": TOKEN, "key_authorization": PROOF, **ref}
    return {"type": f"acme.{kind}.start", "ts_ms": int(NOW * 1000), "ref": ref}


def over_http(number: str = "c1", bind: str = "127.0.0.1", port: Any = 0, **ref: Any) -> Any:
    listen = {"http": {"bind": bind, "port": port}, "https": {"enabled": False}}
    return start("http01", number, **{"listen": listen, "ttl_seconds": 300} | ref)


def over_tls(number: str = "c1", domain: str = "a.example.com", **ref: Any) -> Any:
    cert_pem, key_pem = acme_tls_certificate(domain, PROOF)
    pair = {"cert_pem": cert_pem, "key_pem": key_pem}
    listen = {"bind": "127.0.0.1", "port": 0}
    return start(
        "tlsalpn01", number, **{"domain": domain, "certificate": pair, "listen": listen} | ref
    )


def stop(kind: str, number: str = "c1") -> dict[str, Any]:
    return {"type": f"acme.{kind}.stop", "ts_ms": 1, "ref": {"challenge_id": number}}


def port_of(challenges: Challenges) -> int:
    [listener] = challenges.listeners.values()
    return int(listener.server_address[1])


def asked(port: int, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read()


def certificate_at(port: int, name: str | None, alpn: str = "acme-tls/1") -> tuple[bytes, Any]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        return tls.getpeercert(binary_form=True) or b"", tls.selected_alpn_protocol()


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_the_key_authorization_is_at_the_path_of_the_token(make) -> None:
    challenges = make()
    assert challenges.take(over_http())
    port = port_of(challenges)
    assert asked(port, WELL_KNOWN + TOKEN) == (200, PROOF.encode())
    assert asked(port, WELL_KNOWN + TOKEN, "HEAD") == (200, b"")


@pytest.mark.parametrize("path", ["/", WELL_KNOWN, WELL_KNOWN + TOKEN + "/", WELL_KNOWN + "x"])
def test_any_other_path_is_404(make, path: str) -> None:
    challenges = make()
    challenges.take(over_http())
    assert asked(port_of(challenges), path) == (404, b"")


def test_the_listener_ends_with_its_last_challenge(make) -> None:
    challenges = make()
    challenges.take(over_http("c1"))
    port = port_of(challenges)
    challenges.take(over_http("c2", port=0, token="other", key_authorization="other.x"))
    assert len(challenges.listeners) == 1
    challenges.take(stop("http01", "c1"))
    assert asked(port, WELL_KNOWN + TOKEN)[0] == 404
    assert asked(port, WELL_KNOWN + "other") == (200, b"other.x")
    challenges.take(stop("http01", "c2"))
    assert is_free(port)


def test_a_stop_of_an_unknown_challenge_is_done(make) -> None:
    assert make().take(stop("http01", "never-started"))


def test_the_same_start_twice_is_one_challenge(make, lines) -> None:
    challenges = make()
    assert challenges.take(over_http())
    assert challenges.take(over_http())
    assert sum("Answering" in line for line in lines) == 1
    port = port_of(challenges)
    challenges.take(stop("http01"))
    assert is_free(port)


def test_a_late_start_is_confirmed_and_not_served(make, moment) -> None:
    moment.now = NOW + 300
    challenges = make()
    assert challenges.take(over_http())
    assert not challenges.serving


def test_a_challenge_ends_by_itself(make, moment) -> None:
    challenges = make()
    challenges.take(over_http(ttl_seconds=60))
    port = port_of(challenges)
    moment.now = NOW + 59
    challenges.expire()
    assert not is_free(port)
    moment.now = NOW + 60
    challenges.expire()
    assert is_free(port)


def test_a_port_that_is_taken_is_not_confirmed(make, lines) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        challenges = make()
        assert not challenges.take(over_http(port=port))
    assert f"Cannot listen at 127.0.0.1 port {port}" in lines[0]
    assert not challenges.serving
    assert not challenges.listeners


@pytest.mark.parametrize(
    "signal",
    [
        over_http(token="../../etc/passwd"),
        over_http(token=""),
        over_http(key_authorization=None),
        over_http(listen={"http": {"bind": "127.0.0.1"}}),
        over_http(listen=[]),
        over_http(port=70_000),
        over_http(port=True),
        over_http(ttl_seconds="300"),
        over_tls(certificate={"cert_pem": "x", "key_pem": "y"}),
        over_tls(certificate=None),
        start("tlsalpn01", domain=7),
        {"type": "acme.http01.start", "ts_ms": None, "ref": over_http()["ref"]},
        {"type": "acme.http01.start", "ts_ms": 1, "ref": None},
        {"type": "acme.http01.stop", "ts_ms": 1, "ref": {"challenge_id": ["c1"]}},
    ],
)
def test_a_signal_of_another_form_is_not_confirmed(make, state, lines, signal) -> None:
    challenges = make()
    assert not challenges.take(signal)
    assert lines[0].endswith("The challenge is not answered.")
    assert not challenges.serving
    assert not challenges.listeners
    assert list(state.folder.glob(".*.new")) == []


def test_a_signal_of_a_later_version_is_confirmed(make) -> None:
    assert make().take({"type": "acme.onion01.start", "ts_ms": 1, "ref": {}})


def test_the_administrator_may_choose_where_to_listen(make) -> None:
    challenges = make(http_listen=("127.0.0.1", 0))
    challenges.take(over_http(bind="192.0.2.1", port=80))
    assert asked(port_of(challenges), WELL_KNOWN + TOKEN)[0] == 200


def test_too_many_clients_are_turned_away_until_one_has_left(make) -> None:
    challenges = make()
    challenges.take(over_http())
    port = port_of(challenges)
    with contextlib.ExitStack() as clients:
        silent = [
            clients.enter_context(socket.create_connection(("127.0.0.1", port), LIMIT))
            for _ in range(MOST_CLIENTS)
        ]
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            asked(port, WELL_KNOWN + TOKEN)
        silent[0].close()
        until(lambda: answers(port), "a place is free again")


@pytest.mark.parametrize("signal", [over_http(), over_tls()])
def test_a_silent_client_is_let_go(make, monkeypatch, signal) -> None:
    monkeypatch.setattr("certctrl_agent.challenges.CLIENT_SECONDS", 0.05)
    challenges = make()
    challenges.take(signal)
    with socket.create_connection(("127.0.0.1", port_of(challenges)), LIMIT) as silent:
        assert silent.recv(1) == b""


def answers(port: int) -> bool:
    try:
        return asked(port, WELL_KNOWN + TOKEN)[0] == 200
    except (http.client.RemoteDisconnected, ConnectionError):
        return False


# --- The webroot ---


def test_the_file_is_in_the_webroot_until_the_stop(make, tmp_path, state) -> None:
    challenges = make(webroot=tmp_path / "www")
    (tmp_path / "www").mkdir()
    assert challenges.take(over_http(bind="192.0.2.1", port=80))
    file = Path(f"{tmp_path}/www{WELL_KNOWN}{TOKEN}")
    assert file.read_text() == PROOF
    assert file.stat().st_mode & 0o777 == 0o644
    challenges.take(stop("http01"))
    assert not file.exists()
    assert state.load(FILES) == []


def test_a_webroot_that_is_not_there_is_not_confirmed(make, tmp_path, lines) -> None:
    assert not make(webroot=tmp_path / "www").take(over_http())
    assert "is not a folder" in lines[0]


def test_a_webroot_below_a_folder_of_everyone_is_refused(make, tmp_path, lines) -> None:
    webroot = tmp_path / "open/www"
    webroot.mkdir(parents=True)
    webroot.parent.chmod(0o777)
    assert not make(webroot=webroot).take(over_http())
    assert "Everyone may write" in lines[0]
    assert list(webroot.iterdir()) == []


def test_a_file_that_a_killed_agent_left_is_removed(make, tmp_path) -> None:
    (tmp_path / "www").mkdir()
    challenges = make(webroot=tmp_path / "www")
    challenges.take(over_http())
    challenges.serving.clear()  # as if the process had ended
    make(webroot=tmp_path / "www")
    assert not Path(f"{tmp_path}/www{WELL_KNOWN}{TOKEN}").exists()


# --- TLS-ALPN ---


def test_each_name_gets_its_certificate(make) -> None:
    challenges = make()
    first, second = over_tls("c1", "a.example.com"), over_tls("c2", "b.example.com")
    assert challenges.take(first)
    assert challenges.take(second)
    port = port_of(challenges)
    for signal in (first, second):
        pem = signal["ref"]["certificate"]["cert_pem"]
        shown = ssl.PEM_cert_to_DER_cert(pem), "acme-tls/1"
        assert certificate_at(port, signal["ref"]["domain"].upper()) == shown


@pytest.mark.parametrize("name", ["c.example.com", None])
def test_another_name_gets_no_certificate(make, name: str | None) -> None:
    challenges = make()
    challenges.take(over_tls())
    with pytest.raises(OSError, match=r"(?i)unrecognized|alert"):
        certificate_at(port_of(challenges), name)


def test_the_listener_for_tls_ends_too(make, state) -> None:
    challenges = make(tls_listen=("127.0.0.1", 0))
    challenges.take(over_tls(listen={"bind": "192.0.2.1", "port": 443}))
    port = port_of(challenges)
    challenges.take(stop("tlsalpn01"))
    assert is_free(port)
    assert list(state.folder.glob(".*.new")) == []
