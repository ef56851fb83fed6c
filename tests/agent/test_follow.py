"""Follow a server: fetch what is stale, install it, and keep working while the server is away."""

import threading
from pathlib import Path
from threading import Event

import pytest

from certctrl_agent import trust
from certctrl_agent.backoff import Backoff
from certctrl_agent.errors import LoginNeeded, RefusedByServer, ServerAway
from certctrl_agent.follow import Follower
from certctrl_agent.install import DAY, NEVER
from certctrl_agent.stopping import Stop, Stopped
from certctrl_agent.trust import TrustStore
from tests.agent.fakeserver import SELF, FakeServer, error
from tests.agent.installs import pair, pair_of
from tests.agent.pki import PEM
from tests.agent.plans import copy, run

MATERIALS = SELF + "/certificates/7/deploy-materials"


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "tls").mkdir()
    return tmp_path / "tls/www.key", tmp_path / "tls/www.pem"


def item(paths, **changes):
    return copy({"private.key": str(paths[0]), "fullchain.pem": str(paths[1])}, **changes)


@pytest.fixture
def planned(server: FakeServer, follower: Follower, authority, paths) -> FakeServer:
    """A server with a plan and a certificate, of which the agent has not heard."""
    server.put_plan(item(paths))
    server.issue(7, authority.issue())
    follower.begin()
    return server


def test_a_pass_fetches_installs_and_reports(planned, follower, paths) -> None:
    assert follower.work() == NEVER
    assert pair(*paths) == pair_of(planned.certificates[7])
    assert planned.states() == ["installed"]
    version, event = planned.events
    assert (version["type"], version["agent"]) == ("agent_version", "certctrl-agent")
    assert event["cert_id"] == 7
    assert event["serial"] == planned.certificates[7].serial


def test_a_second_pass_asks_for_nothing(planned, follower) -> None:
    follower.work()
    before = len(planned.requests)
    follower.work()
    assert len(planned.requests) == before


def test_a_signal_brings_the_renewed_certificate(planned, follower, authority, paths) -> None:
    follower.work()
    follower.poll(0)
    planned.issue(7, authority.issue())
    follower.poll(0)
    follower.work()
    assert pair(*paths) == pair_of(planned.certificates[7])


def test_the_same_certificate_is_not_fetched_twice(planned, follower) -> None:
    follower.work()
    planned.signal("cert.updated", cert_id=7)
    follower.poll(0)
    follower.work()
    assert len(planned.asked(MATERIALS)) == 1


def test_a_certificate_that_the_plan_does_not_name_is_left_alone(planned, follower) -> None:
    follower.work()
    planned.signal("cert.updated", cert_id=8)
    planned.signal("of.a.later.version", cert_id=7)
    planned.signal("cert.updated", cert_id="7; rm")
    follower.poll(0)
    follower.work()
    assert SELF + "/certificates/8" not in [path for _, path, _, _ in planned.requests]


def test_signals_of_another_form_are_left_alone(planned, follower, state) -> None:
    follower.work()
    signals = ["x", {}, {"type": 7, "ref": {}}, {"type": "ca.assigned", "ref": {"ca_id": [1]}}]
    signals += [{"type": "cert.unassigned", "ref": None}, {"type": "cert.updated"}]
    body = {"data": {"cursor": "9-0", "signals": signals}}
    planned.script("GET", SELF + "/updates", (200, body))
    follower.poll(0)
    progress = state.load("progress")
    assert (progress["stale"], progress["gone"], progress["trusted"]) == ([], [], [])
    assert progress["cursor"] == "9-0"


def test_a_refused_plan_request_stops_no_install(planned, follower, paths) -> None:
    follower.fetch()
    planned.signal("install.updated", config_id=1, version=9)
    follower.poll(0)
    planned.script("GET", SELF + "/install-config", (404, error(4004, "not_found")))
    with pytest.raises(RefusedByServer):
        follower.work()
    assert pair(*paths) == pair_of(planned.certificates[7])


def test_a_new_plan_is_fetched_and_done(planned, follower, tmp_path) -> None:
    follower.work()
    target = tmp_path / "tls/other.der"
    planned.put_plan(copy({"certificate.der": str(target)}))
    follower.poll(0)
    follower.work()
    assert target.read_bytes() == planned.certificates[7].der


def test_polling_goes_on_behind_the_cursor(planned, follower, state) -> None:
    follower.poll(0)
    cursor = state.load("progress")["cursor"]
    assert cursor == planned.signals[-1][0]
    follower.poll(0)
    Follower(state, follower.log).poll(0)
    assert state.load("progress")["cursor"] == cursor


def test_a_trimmed_log_leads_to_a_full_resync(planned, follower, state) -> None:
    follower.work()
    follower.poll(0)
    params = {"action": "full_resync", "reset_cursor": True}
    planned.script("GET", SELF + "/updates", (409, error(40901, "cursor_trimmed", **params)))
    follower.poll(0)
    assert state.load("progress")["cursor"] == ""
    follower.work()
    assert len(planned.asked(SELF + "/install-config")) == 2


def test_the_interval_of_the_server_is_kept(planned, follower) -> None:
    planned.script("GET", SELF + "/updates", (204, None, {"X-Poll-Interval": "3600"}))
    assert follower.poll(30) > 30


def test_a_crowded_server_is_polled_without_waiting(planned, follower) -> None:
    assert follower.seconds_to_wait(NEVER) == 30
    planned.script("GET", SELF + "/updates", (503, None, {"Retry-After": "7"}))
    with pytest.raises(ServerAway) as caught:
        follower.poll(30)
    assert caught.value.retry_after == 7
    assert follower.seconds_to_wait(NEVER) == 0
    follower.poll(0)
    assert follower.poll(0) > 0, "polls that do not wait have a pause"
    assert follower.seconds_to_wait(NEVER) == 30


def test_a_pending_wrap_is_asked_for_again(planned, follower, state, authority, paths) -> None:
    planned.script("GET", MATERIALS, (409, error(1, "DEVICES::WRAP_PENDING")))
    assert 1 < follower.work() < 5
    assert not paths[0].exists()
    assert follower.work() > 0, "it is not asked for before its time"
    assert len(planned.asked(MATERIALS)) == 1
    planned.signal("cert.updated", cert_id=7, wrap_ready=True)
    follower.poll(0)
    follower.work()
    assert pair(*paths) == pair_of(planned.certificates[7])


def test_a_renewal_between_two_requests_is_no_mismatch(planned, follower, authority, paths) -> None:
    """The detail is that of the old version, and the materials are those of the new one."""
    old = authority.issue()
    planned.script("GET", SELF + "/certificates/7", (200, {"data": old.detail}))
    follower.work()
    assert pair(*paths) == pair_of(planned.certificates[7])


def test_a_key_that_never_matches_is_reported(planned, follower, authority, paths) -> None:
    planned.bundles[7] = authority.issue().sealed(planned.dev_pk)
    follower.work()
    assert planned.states() == ["failed"]
    assert planned.events[-1]["serial"] == planned.certificates[7].serial
    assert "does not match" in planned.events[-1]["what"]
    assert not paths[0].exists()


def test_a_key_that_is_not_for_export_is_said(planned, follower, lines) -> None:
    forbidden = error(1, "CERTS::EXPORT_FORBIDDEN", "This key is not exported.")
    planned.script("GET", MATERIALS, (403, forbidden))
    follower.work()
    assert any("This key is not exported." in line for line in lines)


def test_an_unassigned_certificate_stays_installed(planned, follower, state, paths) -> None:
    follower.work()
    planned.signal("cert.unassigned", cert_id=7)
    follower.poll(0)
    follower.work()
    assert state.names("certificates") == []
    assert pair(*paths) == pair_of(planned.certificates[7])


def test_an_unsafe_plan_does_nothing_and_is_reported_once(planned, follower, paths) -> None:
    planned.put_plan(item(paths), run("reload", "true", ob_type="cert", ob_id=7))
    follower.work()
    follower.work()
    assert planned.states() == ["failed"]
    assert "exec of a certificate" in planned.events[-1]["what"]
    assert not paths[0].exists()


def test_one_certificate_in_trouble_does_not_stop_another(
    planned, follower, authority, paths, tmp_path
) -> None:
    other = tmp_path / "tls/other.pem"
    planned.put_plan(
        item(paths),
        copy({"certificate.pem": str(other)}, 8, id="other"),
        run("test", "false", depends_on=["copy"]),
    )
    planned.issue(8, authority.issue())
    follower.work()
    assert other.read_text() == planned.certificates[8].pem
    assert sorted(planned.states()) == ["installed", "rolled_back"]


# --- A server that is away ---


def test_fetched_versions_are_installed_while_the_server_is_away(
    planned, follower, state, paths
) -> None:
    follower.fetch()
    planned.close()
    with pytest.raises(ServerAway):
        follower.work()
    assert pair(*paths) == pair_of(planned.certificates[7])
    assert [event["type"] for event in state.load("reports")] == ["agent_version", "deployment"]


def test_a_removed_file_is_restored_while_the_server_is_away(planned, state, paths, lines) -> None:
    Follower(state, lines.append).work()
    planned.close()
    paths[1].unlink()
    agent = Follower(state, lines.append)
    agent.begin()
    with pytest.raises(ServerAway):
        agent.work()
    assert pair(*paths) == pair_of(planned.certificates[7])


def test_reports_wait_for_the_server(planned, follower, state) -> None:
    planned.script("POST", SELF + "/notify", *[(503, None)] * 2)
    for _ in range(2):
        with pytest.raises(ServerAway):
            follower.work()
    follower.work()
    assert planned.states() == ["installed"]
    assert state.load("reports") == []


def test_a_refused_report_blocks_no_later_one(planned, follower, state) -> None:
    planned.script("POST", SELF + "/notify", (400, error(5000, "invalid")))
    follower.work()
    assert state.load("reports") == []


def test_a_device_without_login_installs_what_it_has(planned, follower, state, paths) -> None:
    follower.fetch()
    state.save("tokens", {"access_token": "old", "refresh_token": "rt_old.secret"})
    with pytest.raises(LoginNeeded):
        follower.work()
    assert pair(*paths) == pair_of(planned.certificates[7])


def test_everything_is_asked_for_again_each_day(planned, state, lines) -> None:
    now = [1_000_000.0]
    follower = Follower(state, lines.append, lambda: now[0])
    follower.begin()
    follower.work()
    now[0] += DAY
    follower.work()
    assert len(planned.asked(SELF + "/install-config")) == 2


def test_pauses_double_up_to_a_limit_and_differ() -> None:
    backoff = Backoff(1, 100)
    pauses = [backoff.failed() for _ in range(12)]
    assert all(0.7 * 2**n <= pause <= 1.3 * 2**n for n, pause in enumerate(pauses[:6]))
    assert all(70 <= pause <= 130 for pause in pauses[7:])
    assert len(set(pauses[7:])) == 5
    assert backoff.failed(1000) >= 700
    backoff.reset()
    assert backoff.failed() <= 1.3


# --- The loops ---


def test_run_follows_signals_until_it_is_stopped(planned, follower, authority, paths) -> None:
    stop = Stop()
    thread = threading.Thread(target=follower.run, args=(stop,))
    thread.start()
    try:
        planned.wait_for(lambda: planned.states() == ["installed"])
        planned.issue(7, authority.issue())
        planned.wait_for(lambda: planned.states() == ["installed"] * 2)
    finally:
        stop.set()
        planned.signal("wake.up")
        thread.join()
    assert pair(*paths) == pair_of(planned.certificates[7])


def test_run_comes_back_to_a_server_that_was_away(planned, follower, paths, lines) -> None:
    planned.script("GET", SELF + "/install-config", (503, None))
    planned.script("GET", SELF + "/updates", (502, None))
    stop = Stop()
    thread = threading.Thread(target=follower.run, args=(stop,))
    thread.start()
    try:
        planned.wait_for(lambda: planned.states() == ["installed"])
    finally:
        stop.set()
        planned.signal("wake.up")
        thread.join()
    assert any("responded with 503" in line for line in lines)


def test_a_poll_that_can_be_stopped_refreshes_its_token(planned, follower) -> None:
    planned.spend_access_token()
    follower.poll(0, Stop())
    assert len(planned.asked("/auth/refresh")) == 1


def test_a_poll_is_not_begun_after_a_signal(planned, follower) -> None:
    stop = Stop()
    stop.received()
    with pytest.raises(Stopped):
        follower.poll(30, stop)
    assert planned.asked(SELF + "/updates") == []


def test_once_waits_for_a_key(planned, follower, paths) -> None:
    planned.script("GET", MATERIALS, (409, error(1, "DEVICES::WRAP_PENDING")))
    follower.once(Event(), 60)
    assert pair(*paths) == pair_of(planned.certificates[7])


# --- CAs ---


@pytest.fixture
def store(tmp_path, monkeypatch) -> TrustStore:
    (tmp_path / "anchors").mkdir()
    store = TrustStore(tmp_path / "anchors", ("touch", str(tmp_path / "updated")))
    monkeypatch.setattr(trust, "of_this_machine", lambda: store)
    return store


def problems(server: FakeServer) -> list[str]:
    return [event["what"] for event in server.events if event["type"] == "agent_error"]


def test_an_update_of_the_trust_store_that_failed_is_tried_again(
    server, state, lines, authority, monkeypatch, follower, tmp_path
) -> None:
    now = [1_000_000.0]
    follower.now = lambda: now[0]
    (tmp_path / "anchors").mkdir()
    store = TrustStore(tmp_path / "anchors", ("touch", str(tmp_path / "absent/updated")))
    monkeypatch.setattr(trust, "of_this_machine", lambda: store)
    server.cas[3] = authority.root.public_bytes(PEM).decode()
    server.put_plan({"type": "import_ca", "ob_type": "ca", "ob_id": 3, "from": ["ca.pem"]})
    follower.begin()
    assert 30 < follower.work() < 90
    follower.work()
    assert len(problems(server)) == 1
    assert "is not updated. It is tried again." in problems(server)[0]
    (tmp_path / "absent").mkdir()
    follower.work()
    assert not (tmp_path / "absent/updated").exists()
    now[0] += 100
    assert follower.work() == NEVER
    assert (tmp_path / "absent/updated").exists()
    follower.work()
    assert problems(server)[1:] == [""]


def test_a_killed_agent_updates_the_trust_store_later(server, follower, store, tmp_path) -> None:
    follower.state.save("trust", {"is_stale": True})
    follower.begin()
    follower.work()
    assert (tmp_path / "updated").exists()


def test_a_ca_that_cannot_be_removed_is_tried_again(
    server, follower, authority, store, tmp_path, monkeypatch
) -> None:
    follower.begin()
    follower.work()
    store.put(3, b"pem")
    server.signal("ca.unassigned", ca_id=3)
    follower.poll(0)

    def busy(*_):
        raise OSError("The file is busy")

    with monkeypatch.context() as patch:
        patch.setattr(TrustStore, "put", busy)
        follower.work()
    assert problems(server) == ["CA 3: The file is busy"]
    follower.work()
    follower.work()
    assert not store.path(3).exists()
    assert problems(server)[1:] == [""]


def test_a_machine_without_a_trust_store_reports_it(
    server, follower, authority, monkeypatch
) -> None:
    monkeypatch.setattr(trust, "of_this_machine", lambda: None)
    server.cas[3] = authority.root.public_bytes(PEM).decode()
    server.put_plan({"type": "import_ca", "ob_type": "ca", "ob_id": 3, "from": ["ca.pem"]})
    follower.begin()
    follower.work()
    follower.work()
    assert problems(server) == ["CA 3: This machine has no trust store that the agent knows."]


def test_a_ca_of_the_plan_is_trusted(server, follower, authority, store, tmp_path) -> None:
    server.cas[3] = authority.root.public_bytes(PEM).decode()
    server.put_plan({"type": "import_ca", "ob_type": "ca", "ob_id": 3, "from": ["ca.pem"]})
    follower.begin()
    follower.work()
    assert store.path(3).read_text() == server.cas[3]
    (tmp_path / "updated").unlink()
    follower.work()
    assert not (tmp_path / "updated").exists(), "it is trusted already"


def test_an_assigned_ca_is_trusted_until_it_is_unassigned(
    server, follower, authority, store
) -> None:
    server.cas[3] = authority.root.public_bytes(PEM).decode()
    follower.begin()
    follower.work()
    server.put_plan()
    server.signal("ca.assigned", ca_id=3, ca_name="Test root")
    follower.poll(0)
    follower.work()
    assert store.path(3).exists()
    server.signal("ca.unassigned", ca_id=3)
    follower.poll(0)
    follower.work()
    assert not store.path(3).exists()


def test_a_ca_may_be_copied(server, follower, authority, tmp_path) -> None:
    server.cas[3] = authority.root.public_bytes(PEM).decode()
    target = tmp_path / "root.pem"
    server.put_plan(copy({"ca.pem": str(target)}, 3, ob_type="ca"))
    follower.begin()
    follower.work()
    assert target.read_text() == server.cas[3]
    assert server.states() == []
