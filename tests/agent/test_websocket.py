"""The WebSocket: it brings signals and challenges, comes back, and leaves polling in its place."""

import threading
import time
from typing import Any
from unittest.mock import Mock

import pytest

from certctrl_agent import websocket
from certctrl_agent.challenges import Challenges
from certctrl_agent.config import NAME, Config
from certctrl_agent.follow import Follower
from certctrl_agent.stopping import Stop
from certctrl_agent.websocket import WebSocket
from tests.agent.fakeserver import FakeServer
from tests.agent.plans import copy
from tests.agent.test_challenges import over_http, stop

PATH = "/api/websocket/11"


class Running:
    """An agent in a thread, as `run` runs it."""

    def __init__(self, server: FakeServer, follower: Follower) -> None:
        self.server = server
        self.follower = follower
        self.stop = Stop()
        self.thread = threading.Thread(target=follower.run, args=(self.stop,), daemon=True)

    def __enter__(self) -> "Running":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        self.server.signal("of.a.later.version")  # ends a wait
        self.thread.join(20)


@pytest.fixture
def answering(follower: Follower, state, lines) -> Follower:
    (state.folder / NAME).write_text("challenges = true")
    return Follower(state, lines.append)


@pytest.fixture
def opened(follower: Follower, state, lines):
    """A WebSocket alone, without a follower."""
    challenges = Challenges(state, Config(challenges=True), lines.append)
    return WebSocket(state, challenges, lines.append)


def started(server: FakeServer) -> dict[str, Any]:
    signal = over_http()
    server.live("acme.http01.start", int(time.time() * 1000), **signal["ref"])
    return signal


def connected(server: FakeServer, count: int = 1) -> None:
    server.wait_for(lambda: len(server.sockets) >= count)


def test_a_challenge_is_served_and_confirmed(server, opened) -> None:
    with opened:
        connected(server)
        started(server)
        server.wait_for(server.acked)
        assert [*opened.challenges.serving] == ["c1"]
        server.live("acme.http01.stop", 7, **stop("http01")["ref"])
        server.wait_for(lambda: "7-0" in server.acked())
        assert not opened.challenges.serving


def test_a_challenge_that_is_not_served_is_not_confirmed(server, opened, lines) -> None:
    with opened:
        connected(server)
        server.live("acme.http01.start", int(time.time() * 1000), **over_http(port=-1)["ref"])
        server.live("acme.http01.stop", 6, challenge_id="c1")
        server.wait_for(server.acked)
    assert server.acked() == ["6-0"]
    assert any("not answered" in line for line in lines)


def test_challenges_end_with_the_agent(server, opened) -> None:
    with opened:
        connected(server)
        started(server)
        server.wait_for(server.acked)
    assert not opened.challenges.serving
    assert not opened.thread.is_alive()


def test_a_spent_token_is_refreshed_for_the_websocket(server, opened) -> None:
    server.spend_access_token()
    with opened:
        connected(server)
    asked = [headers["Authorization"] for _, path, _, headers in server.requests if path == PATH]
    assert len(asked) == 2
    assert asked[1] == f"Bearer {server.access_token}"


def test_a_connection_that_ended_is_opened_again(monkeypatch, server, opened, lines) -> None:
    monkeypatch.setattr(opened.backoff, "first", 0.01)
    with opened:
        connected(server)
        server.end_sockets()
        connected(server)
    assert any("has ended" in line for line in lines)
    assert sum("is open" in line for line in lines) == 2


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), AttributeError("x")])
def test_an_error_that_nobody_expected_ends_no_thread(
    monkeypatch, server, opened, lines, error
) -> None:
    monkeypatch.setattr(opened.backoff, "first", 0.01)
    monkeypatch.setattr(opened.challenges, "take", Mock(side_effect=error))
    with opened:
        connected(server)
        started(server)
        server.wait_for(lambda: sum("is open" in line for line in lines) == 2)
    assert any("has ended" in line for line in lines)


def test_a_server_without_websockets_is_logged_once(monkeypatch, server, opened, lines) -> None:
    monkeypatch.setattr(opened.backoff, "first", 0.01)
    server.script("GET", PATH, *[(404, None)] * 4)
    with opened:
        connected(server)
    assert sum("Polling instead" in line for line in lines) == 1


def test_a_server_that_answers_no_ping_is_left(monkeypatch, server, opened) -> None:
    monkeypatch.setattr(websocket, "PING_EVERY", 0.05)
    monkeypatch.setattr(opened.backoff, "first", 0.01)
    server.speaks = False
    with opened:
        server.wait_for(lambda: sum(path == PATH for _, path, _, _ in server.requests) > 1)
    assert any(each["type"] == "ping" for each in server.heard)


def test_a_server_that_answers_pings_is_kept(monkeypatch, server, opened) -> None:
    monkeypatch.setattr(websocket, "PING_EVERY", 0.05)
    with opened:
        server.wait_for(lambda: sum(each["type"] == "ping" for each in server.heard) > 3)
    assert sum(path == PATH for _, path, _, _ in server.requests) == 1


# --- With a follower ---


def test_a_signal_of_the_log_is_installed_and_confirmed(
    server, answering, authority, tmp_path, state
) -> None:
    target = tmp_path / "tls/www.der"
    target.parent.mkdir()
    server.put_plan(copy({"certificate.der": str(target)}))
    server.issue(7, authority.issue())
    with Running(server, answering):
        server.wait_for(lambda: server.states() == ["installed"])
        connected(server)
        server.issue(7, authority.issue())
        last = server.signals[-1][0]
        server.wait_for(lambda: last in server.acked())
        server.wait_for(lambda: server.states().count("installed") == 2)
    assert target.read_bytes() == server.certificates[7].der
    assert state.load("progress")["cursor"] >= last


def test_the_websocket_resumes_behind_the_last_signal(server, answering, state) -> None:
    state.save("progress", {"cursor": "1001-0"})
    server.signal("cert.unassigned", cert_id=1)
    server.signal("cert.unassigned", cert_id=2)
    with Running(server, answering):
        server.wait_for(server.acked)
        assert server.acked() == ["1002-0"]
    [greeting] = [each for each in server.heard if each.get("name") == "lifecycle.hello_ack"]
    assert greeting["resume_token"] == "1001-0"


def test_without_the_permission_there_is_no_websocket(server, follower) -> None:
    with Running(server, follower):
        server.wait_for(lambda: server.held)
        server.signal("cert.unassigned", cert_id=1)
    assert not any(path == PATH for _, path, _, _ in server.requests)


def test_polling_takes_the_place_of_the_websocket(server, answering, state) -> None:
    server.script("GET", PATH, *[(404, None)] * 50)
    with Running(server, answering):
        server.wait_for(lambda: server.held)
        server.signal("cert.unassigned", cert_id=1)
        server.wait_for(lambda: state.load("progress")["cursor"] == "1001-0")
    assert not server.sockets
