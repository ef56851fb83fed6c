"""The commands, as a person or systemd calls them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from certctrl_agent import cli, recognise, service
from certctrl_agent.cli import app
from certctrl_agent.state import State
from lab.ca import PROJECT
from tests.agent.fakeserver import ENROLMENT_KEY
from tests.agent.installs import pair, pair_of
from tests.agent.plans import copy, run
from tests.agent.test_recognise import ETC, NGINX
from tests.patience import LIMIT

AGENT = PROJECT / "agent"


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "tls").mkdir()
    return tmp_path / "tls/www.key", tmp_path / "tls/www.pem"


def item(paths):
    return copy({"private.key": str(paths[0]), "fullchain.pem": str(paths[1])})


@pytest.fixture
def call(state: State):
    """Call a command with the state of this test."""

    def call(*arguments: str, **env: str):
        return CliRunner().invoke(
            app, list(arguments), env={"CERTCTRL_AGENT_STATE": str(state.folder), **env}
        )

    return call


@pytest.fixture
def enrolled(call, server, authority, paths):
    """A machine that enrolled with one command, and a server with a plan for it."""
    done = call("login", server.origin, "--api-key", ENROLMENT_KEY, "--name", "web 1")
    assert done.exit_code == 0, done.output
    server.put_plan(item(paths))
    server.issue(7, authority.issue())
    return server


def test_login_with_a_key_is_one_command(call, server, state) -> None:
    done = call("login", server.origin, CERTCTRL_API_KEY=ENROLMENT_KEY)
    assert done.exit_code == 0
    assert "Enrolled as device 11" in done.output
    assert ENROLMENT_KEY not in done.output
    assert state.device()["id"] == 11


def test_login_reads_a_key_from_the_standard_input(server, state) -> None:
    arguments = ["login", server.origin, "--api-key", "-", "--state", str(state.folder)]
    assert CliRunner().invoke(app, arguments, input=f"{ENROLMENT_KEY}\n").exit_code == 0


def test_login_with_a_person_shows_address_and_code(call, server) -> None:
    done = call("login", server.origin)
    assert f"Open {server.origin}/device and enter WXYZ-1234" in done.output
    assert done.exit_code == 0


def test_once_installs_and_status_shows_it(call, enrolled, paths) -> None:
    assert call("once").exit_code == 0
    assert pair(*paths) == pair_of(enrolled.certificates[7])
    shown = call("status").output
    assert "installed: since" in shown
    about = json.loads(call("status", "--json").output)
    assert about["certificates"][0]["serial"] == enrolled.certificates[7].serial
    assert about["device"]["id"] == 11
    assert "rt_" not in shown + json.dumps(about)


def test_once_fails_when_something_was_rolled_back(call, enrolled, paths) -> None:
    enrolled.put_plan(item(paths), run("test", "false"))
    assert call("once").exit_code == 1
    assert "rolled_back: The command false ended with 1" in call("status").output


def test_once_tries_again_what_failed(call, enrolled, paths, tmp_path) -> None:
    gate = tmp_path / "gate"
    enrolled.put_plan(item(paths), run("test", ["test", "-e", str(gate)]))
    assert call("once").exit_code == 1
    gate.touch()
    assert call("once").exit_code == 0


def test_validate_runs_the_test_command_and_nothing_else(call, enrolled, paths, tmp_path) -> None:
    call("once")
    tested, reloaded = tmp_path / "tested", tmp_path / "reloaded"
    enrolled.put_plan(
        item(paths),
        run("test", ["touch", str(tested)]),
        run("reload", ["touch", str(reloaded)]),
    )
    call("once")
    tested.unlink()
    reloaded.unlink()
    done = call("validate")
    assert (done.exit_code, tested.exists(), reloaded.exists()) == (0, True, False)


def test_validate_names_everything_that_is_wrong(call, enrolled, paths, tmp_path) -> None:
    call("once")
    enrolled.put_plan(item(paths), run("test", "false"))
    call("once")
    paths[1].unlink()
    paths[1].symlink_to(tmp_path)
    done = call("validate")
    assert done.exit_code == 1
    assert f"is a link to {tmp_path}" in done.output
    assert "The command false ended with 1" in done.output


@pytest.mark.parametrize("command", ["run", "once", "status"])
def test_a_machine_that_has_not_enrolled_is_told_how(state, command) -> None:
    arguments = [sys.executable, "-m", "certctrl_agent", command, "--state", str(state.folder)]
    done = subprocess.run(
        arguments, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(AGENT)}
    )
    assert done.returncode == 1
    assert done.stderr.startswith("certctrl-agent: No device in")
    assert "Traceback" not in done.stderr


def test_sigterm_ends_run_while_the_server_holds_its_poll(enrolled, state) -> None:
    arguments = [sys.executable, "-m", "certctrl_agent", "run", "--state", str(state.folder)]
    process = subprocess.Popen(arguments, env=os.environ | {"PYTHONPATH": str(AGENT)})
    try:
        enrolled.wait_for(lambda: enrolled.states() == ["installed"] and enrolled.held)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(LIMIT)
    assert (code, enrolled.held) == (0, 1)


# --- propose ---


@pytest.fixture
def nginx(monkeypatch) -> None:
    program = recognise.Program("nginx", ("nginx", "-t"), ("nginx", "-s", "reload"), NGINX, ETC)
    monkeypatch.setattr(cli.recognise, "programs", lambda: [program])


def test_propose_prints_a_body_for_install_config(call, nginx) -> None:
    body = json.loads(call("propose", "--certificate", "7", "--name", "www.example.com").output)
    assert [each["type"] for each in body["installs"]] == ["copy", "exec", "exec"]
    assert body["installs"][0]["ob_id"] == 7


def test_propose_names_the_sites_that_are_there(call, nginx) -> None:
    done = call("propose", "--certificate", "7", "--name", "other.example.com")
    assert done.exit_code == 1
    assert "www.example.com of nginx" in str(done.exception)


# --- install-service ---


def test_the_unit_may_write_only_where_the_plan_has_targets(call, enrolled, state, paths) -> None:
    call("once")
    unit = call("install-service", "--print", "--write", "/var/log/nginx").output
    line = next(line for line in unit.splitlines() if line.startswith("ReadWritePaths="))
    folders = line.removeprefix("ReadWritePaths=").split()
    assert folders == [f"-{each}" for each in (state.folder, state.live, paths[0].parent)] + [
        "-/var/log/nginx"
    ]


def test_words_of_the_unit_are_quoted() -> None:
    unit = service.unit(["/opt/my agent/python", "100%"], [])
    assert 'ExecStart="/opt/my agent/python" "100%%"' in unit


def test_systemd_has_no_complaint_about_the_unit(tmp_path) -> None:
    place = tmp_path / "certctrl-agent.service"
    place.write_text(service.unit(["/bin/true"], [tmp_path]))
    try:
        verified = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", place], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("needs systemd-analyze")
    complaints = [line for line in verified.stderr.splitlines() if place.name in line]
    assert complaints == []


def test_systemd_finds_the_unit_well_confined(tmp_path) -> None:
    place = tmp_path / "certctrl-agent.service"
    place.write_text(service.unit(["/bin/true"], [tmp_path]))
    try:
        rated = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--threshold=40", place],
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        pytest.skip("needs systemd-analyze")
    if "bus" in rated.stderr:
        pytest.skip(rated.stderr)
    assert rated.returncode == 0, rated.stdout
