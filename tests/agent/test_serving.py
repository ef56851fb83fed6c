"""A version is proved by a handshake, within its grace period, or rolled back."""

from pathlib import Path

import pytest

from certctrl_agent.install import DAY, NEVER
from tests.agent.installs import installer, pair, pair_of, proved, states, wanted
from tests.agent.plans import copy, run, tls
from tests.agent.tlsservers import tls_server


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "tls").mkdir()
    return tmp_path / "tls/www.key", tmp_path / "tls/www.pem"


def item(paths, port: int, **changes):
    files = {"private.key": str(paths[0]), "fullchain.pem": str(paths[1])}
    return copy(files, verify=tls(port, **changes))


def test_a_certificate_that_is_served_is_reported(state, authority, tmp_path, paths) -> None:
    issued = authority.issue()
    with tls_server(tmp_path, issued) as server:
        assert proved(installer(state), wanted(issued, item(paths, server.port))) == NEVER
    assert states(state) == ["installed", "served"]
    assert all(event["serial"] == issued.serial for event in state.load("reports"))


def test_an_old_process_that_serves_beside_the_new_is_waited_for(
    state, authority, tmp_path, paths
) -> None:
    """The first look sees the new certificate, and the second the old one again."""
    old, new = authority.issue(), authority.issue()
    agent = installer(state)
    with tls_server(tmp_path, new) as server:
        want = wanted(new, item(paths, server.port, grace_seconds=60))
        assert agent.advance(want) < NEVER
        server.serve(old)
        assert agent.advance(want) < NEVER
        server.serve(new)
        assert [agent.advance(want) < NEVER for _ in range(3)] == [True, True, False]
    assert states(state) == ["installed", "served"]


def test_a_reload_that_does_nothing_is_rolled_back(state, authority, tmp_path, paths) -> None:
    old, new = authority.issue(), authority.issue()
    reload = run("reload", "true")
    with tls_server(tmp_path, old) as server:
        proved(installer(state), wanted(old, item(paths, server.port), reload))
        assert proved(installer(state), wanted(new, item(paths, server.port), reload)) == DAY
    assert states(state) == ["installed", "served", "installed", "rolled_back"]
    assert f"serves the certificate with serial {old.serial}" in state.load("reports")[-1]["what"]
    assert pair(*paths) == pair_of(old)


def test_a_server_has_its_grace_period_to_restart(state, authority, tmp_path, paths) -> None:
    now = [1_000_000.0]
    agent = installer(state, lambda: now[0])
    old, new = authority.issue(), authority.issue()
    with tls_server(tmp_path, old) as server:
        want = wanted(new, item(paths, server.port, grace_seconds=3600))
        assert 0 < proved(agent, want) < 60
        now[0] += 3599
        assert proved(agent, want) == 1
        assert states(state) == ["installed"]
        server.serve(new)
        assert proved(agent, want) == NEVER
    assert states(state) == ["installed", "served"]
    assert pair(*paths) == pair_of(new)


def test_a_grace_period_that_ends_is_rolled_back(state, authority, tmp_path, paths) -> None:
    now = [1_000_000.0]
    log = paths[0].with_name("log")
    reload = run("reload", ["sh", "-c", f"echo reload >> {log}"])
    with tls_server(tmp_path, authority.issue()) as server:
        want = wanted(authority.issue(), item(paths, server.port, grace_seconds=60), reload)
        proved(installer(state, lambda: now[0]), want)
        now[0] += 60
        proved(installer(state, lambda: now[0]), want)
    assert states(state) == ["installed", "rolled_back"]
    assert log.read_text() == "reload\n" * 2


def test_a_clock_that_is_set_back_extends_no_grace_period(
    state, authority, tmp_path, paths
) -> None:
    now = [1_000_000.0]
    with tls_server(tmp_path, authority.issue()) as server:
        want = wanted(authority.issue(), item(paths, server.port, grace_seconds=60))
        proved(installer(state, lambda: now[0]), want)
        for moment in (0.0, 60.0):
            now[0] = moment
            proved(installer(state, lambda: now[0]), want)
    assert states(state) == ["installed", "rolled_back"]


def test_a_newer_version_ends_the_trial_of_another(state, authority, tmp_path, paths) -> None:
    """The version to go back to is the last one that was proved."""
    first, tried, newest = (authority.issue() for _ in range(3))
    with tls_server(tmp_path, first) as server:
        proved(installer(state), wanted(first, item(paths, server.port)))
        proved(installer(state), wanted(tried, item(paths, server.port, grace_seconds=3600)))
        assert pair(*paths) == pair_of(tried)
        proved(installer(state), wanted(newest, item(paths, server.port)))
    assert states(state)[-1] == "rolled_back"
    assert pair(*paths) == pair_of(first)


def test_every_address_of_the_plan_must_serve_it(state, authority, tmp_path, paths) -> None:
    old, new = authority.issue(), authority.issue()
    (tmp_path / "other").mkdir()
    with tls_server(tmp_path, new) as good, tls_server(tmp_path / "other", old) as bad:
        reload = run("reload", "true", verify=tls(bad.port))
        proved(installer(state), wanted(new, item(paths, good.port), reload))
    assert states(state) == ["installed", "rolled_back"]
    assert f"127.0.0.1:{bad.port}" in state.load("reports")[-1]["what"]
