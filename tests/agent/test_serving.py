"""A version is proved by a handshake, within its grace period, or rolled back."""

from pathlib import Path

import pytest

from certctrl_agent.install import DAY, NEVER
from tests.agent.installs import installer, pair, pair_of, states, wanted
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
        assert installer(state).advance(wanted(issued, item(paths, server.port))) == NEVER
    assert states(state) == ["installed", "served"]
    assert all(event["serial"] == issued.serial for event in state.load("reports"))


def test_a_reload_that_does_nothing_is_rolled_back(state, authority, tmp_path, paths) -> None:
    old, new = authority.issue(), authority.issue()
    reload = run("reload", "true")
    with tls_server(tmp_path, old) as server:
        installer(state).advance(wanted(old, item(paths, server.port), reload))
        assert installer(state).advance(wanted(new, item(paths, server.port), reload)) == DAY
    assert states(state) == ["installed", "served", "installed", "rolled_back"]
    assert f"serves the certificate with serial {old.serial}" in state.load("reports")[-1]["what"]
    assert pair(*paths) == pair_of(old)


def test_a_server_has_its_grace_period_to_restart(state, authority, tmp_path, paths) -> None:
    now = [1_000_000.0]
    agent = installer(state, lambda: now[0])
    old, new = authority.issue(), authority.issue()
    with tls_server(tmp_path, old) as server:
        want = wanted(new, item(paths, server.port, grace_seconds=3600))
        assert 0 < agent.advance(want) < 60
        now[0] += 3599
        assert agent.advance(want) == 1
        assert states(state) == ["installed"]
        server.serve(new)
        assert agent.advance(want) == NEVER
    assert states(state) == ["installed", "served"]
    assert pair(*paths) == pair_of(new)


def test_a_grace_period_that_ends_is_rolled_back(state, authority, tmp_path, paths) -> None:
    now = [1_000_000.0]
    log = paths[0].with_name("log")
    reload = run("reload", ["sh", "-c", f"echo reload >> {log}"])
    with tls_server(tmp_path, authority.issue()) as server:
        want = wanted(authority.issue(), item(paths, server.port, grace_seconds=60), reload)
        installer(state, lambda: now[0]).advance(want)
        now[0] += 60
        installer(state, lambda: now[0]).advance(want)
    assert states(state) == ["installed", "rolled_back"]
    assert log.read_text() == "reload\n" * 2


def test_a_newer_version_ends_the_trial_of_another(state, authority, tmp_path, paths) -> None:
    """The version to go back to is the last one that was proved."""
    proved, tried, newest = (authority.issue() for _ in range(3))
    with tls_server(tmp_path, proved) as server:
        installer(state).advance(wanted(proved, item(paths, server.port)))
        installer(state).advance(wanted(tried, item(paths, server.port, grace_seconds=3600)))
        assert pair(*paths) == pair_of(tried)
        installer(state).advance(wanted(newest, item(paths, server.port)))
    assert states(state)[-1] == "rolled_back"
    assert pair(*paths) == pair_of(proved)


def test_every_address_of_the_plan_must_serve_it(state, authority, tmp_path, paths) -> None:
    old, new = authority.issue(), authority.issue()
    (tmp_path / "other").mkdir()
    with tls_server(tmp_path, new) as good, tls_server(tmp_path / "other", old) as bad:
        reload = run("reload", "true", verify=tls(bad.port))
        installer(state).advance(wanted(new, item(paths, good.port), reload))
    assert states(state) == ["installed", "rolled_back"]
    assert f"127.0.0.1:{bad.port}" in state.load("reports")[-1]["what"]
