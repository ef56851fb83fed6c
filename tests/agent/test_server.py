"""Requests with tokens: refreshed once, stored before use, and patient with a server in trouble."""

import stat
from typing import Any

import pytest

from certctrl_agent import files
from certctrl_agent.errors import LoginNeeded, NotReady, RefusedByServer, ServerAway
from certctrl_agent.server import DeviceClient, Server
from tests.agent.fakeserver import SELF, error
from tests.agent.tlsservers import tls_server

PLAN = SELF + "/install-config"


@pytest.fixture
def client(follower) -> DeviceClient:
    return follower.client


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_refreshed_once(server, client, state, status) -> None:
    server.script("GET", PLAN, (status, error(2001, "unauthorized")))
    assert client.get("/install-config", "the plan")["version"] == 0
    assert len(server.asked("/auth/refresh")) == 1
    assert state.load("tokens")["access_token"] == server.access_token
    assert stat.S_IMODE((state.folder / "tokens.json").stat().st_mode) == 0o600


def test_a_second_refusal_is_not_refreshed_again(server, client) -> None:
    server.script("GET", PLAN, *[(401, error(2001, "unauthorized"))] * 2)
    with pytest.raises(LoginNeeded, match="certctrl-agent login"):
        client.get("/install-config", "the plan")
    assert len(server.asked("/auth/refresh")) == 1


def test_new_tokens_are_on_the_disk_before_they_are_used(server, client, monkeypatch) -> None:
    def no_space(path: Any, value: Any) -> None:
        raise OSError(28, "No space left on device")

    server.spend_access_token()
    monkeypatch.setattr(files, "write_json", no_space)
    with pytest.raises(OSError, match="No space"):
        client.get("/install-config", "the plan")
    assert len(server.asked(PLAN)) == 1


def test_tokens_of_another_process_are_used(server, client, state) -> None:
    """Another process of this device refreshed while this one waited for the lock."""
    spent = state.load("tokens")["access_token"]
    server.spend_access_token()
    client.refreshed(spent)
    assert client.refreshed(spent) == server.access_token
    assert len(server.asked("/auth/refresh")) == 1


def test_a_spent_refresh_token_needs_a_login(server, client, state) -> None:
    state.save("tokens", {"access_token": "old", "refresh_token": "rt_old.secret"})
    with pytest.raises(LoginNeeded) as caught:
        client.get("/install-config", "the plan")
    assert "rt_old" not in str(caught.value)


def test_a_server_in_trouble_during_a_refresh_costs_no_token(server, client, state) -> None:
    before = state.load("tokens")
    server.spend_access_token()
    server.script("POST", "/auth/refresh", (503, None))
    with pytest.raises(ServerAway):
        client.get("/install-config", "the plan")
    assert state.load("tokens") == before
    assert client.get("/install-config", "the plan")["version"] == 0


def test_a_policy_that_forbids_export_refreshes_nothing(server, client) -> None:
    path = "/certificates/7/deploy-materials"
    server.script("GET", SELF + path, (403, error(1, "CERTS::EXPORT_FORBIDDEN", "Not exported.")))
    with pytest.raises(RefusedByServer, match="Not exported"):
        client.get(path, "certificate 7")
    assert server.asked("/auth/refresh") == []


def test_a_pending_wrap_is_not_a_refusal(server, client) -> None:
    path = "/certificates/7/deploy-materials"
    server.script("GET", SELF + path, (409, error(1, "DEVICES::WRAP_PENDING")))
    with pytest.raises(NotReady):
        client.get(path, "certificate 7")


@pytest.mark.parametrize(
    ("response", "seconds"),
    [
        ((503, None, {"Retry-After": "17"}), 17),
        ((429, error(1, "slow", retry_after=23)), 23),
        ((500, None), 0),
        ((200, b"no JSON"), 0),
        ((200, {"no data": 1}), 0),
    ],
)
def test_a_response_that_is_none_means_later(server, client, response, seconds) -> None:
    server.script("GET", PLAN, response)
    with pytest.raises(ServerAway) as caught:
        client.get("/install-config", "the plan")
    assert caught.value.retry_after == seconds


def test_a_password_of_netrc_never_replaces_the_token(
    server, client, tmp_path, monkeypatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    client.get("/install-config", "the plan")
    assert server.requests[-1][3]["Authorization"] == f"Bearer {server.access_token}"


def test_a_redirect_is_not_followed(server, client) -> None:
    server.script("GET", PLAN, (302, None, {"Location": "https://elsewhere.example.com/"}))
    with pytest.raises(RefusedByServer):
        client.get("/install-config", "the plan")


def test_a_response_without_end_is_cut_off(server, client, monkeypatch) -> None:
    monkeypatch.setattr("certctrl_agent.server.LARGEST", 100)
    server.script("GET", PLAN, (200, {"data": "x" * 200}))
    with pytest.raises(ServerAway, match="over 100 bytes"):
        client.get("/install-config", "the plan")


def test_a_server_that_is_gone_is_away(server) -> None:
    peer = Server(server.origin)
    server.close()
    with pytest.raises(ServerAway, match="does not respond"):
        peer.ask("GET", "/health")


def test_a_certificate_of_an_unknown_ca_is_refused(tmp_path, authority) -> None:
    with tls_server(tmp_path, authority.issue("localhost")) as server:
        peer = Server(f"https://localhost:{server.port}")
        with pytest.raises(ServerAway, match="certificate"):
            peer.ask("GET", "/", token="never sent")
