"""The agent beside real web servers: renewed, broken, and with a reload that does nothing."""

from collections.abc import Callable
from threading import Event

import pytest

from certctrl_agent import handshake
from certctrl_agent.plan import TlsCheck
from tests import nginx
from tests.agent import webservers
from tests.agent.installs import pair, pair_of
from tests.agent.webservers import WebServer

KINDS = [
    pytest.param(
        webservers.nginx,
        marks=pytest.mark.skipif(nginx.PROGRAM is None, reason="needs nginx"),
        id="nginx",
    ),
    pytest.param(
        webservers.haproxy,
        marks=pytest.mark.skipif(webservers.HAPROXY is None, reason="needs haproxy"),
        id="haproxy",
    ),
]


@pytest.fixture
def old(authority):
    return authority.issue()


@pytest.fixture(params=KINDS)
def web(request, tmp_path, old):
    start: Callable = request.param
    with start(tmp_path / "web", old) as server:
        yield server


def serves(web: WebServer, issued) -> None:
    """Raise CheckError if the server serves another certificate."""
    handshake.confirm(TlsCheck("127.0.0.1", web.port, "www.example.com", "", 0), issued.leaf)


def once(follower) -> None:
    follower.once(Event(), 60)


def test_a_renewed_certificate_is_served(web, old, server, follower, authority) -> None:
    serves(web, old)
    server.put_plan(*web.plan())
    for _ in range(2):
        server.issue(7, authority.issue())
        once(follower)
        serves(web, server.certificates[7])
    assert server.states() == ["installed", "served"] * 2


def test_a_broken_configuration_is_rolled_back(web, old, server, follower, authority) -> None:
    web.break_configuration()
    server.put_plan(*web.plan())
    server.issue(7, authority.issue())
    once(follower)
    assert server.states() == ["rolled_back"]
    assert "no_such" in server.events[-1]["what"]
    assert pair(web.key, web.chain) == pair_of(old)
    serves(web, old)


def test_a_reload_that_does_nothing_is_found(web, old, server, follower, authority) -> None:
    web.reload = ["true"]
    server.put_plan(*web.plan(grace_seconds=0))
    server.issue(7, authority.issue())
    once(follower)
    assert server.states() == ["installed", "rolled_back"]
    assert f"serves the certificate with serial {old.serial}" in server.events[-1]["what"]
    assert pair(web.key, web.chain) == pair_of(old)


def test_targets_that_regular_files_held_are_read_through_links(
    web, server, follower, authority
) -> None:
    """The server reads both files at once, at the moment of its reload."""
    server.put_plan(*web.plan())
    server.issue(7, authority.issue())
    once(follower)
    assert web.key.is_symlink()
    assert web.key.resolve().parent == web.chain.resolve().parent
