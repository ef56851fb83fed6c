"""The service of `install-service` under a real systemd, beside Debian's nginx and its unit."""

import json
import sys
from pathlib import Path

import pytest

from lab.ca import PROJECT
from tests import nginx
from tests.agent.fakeserver import ENROLMENT_KEY
from tests.agent.pki import Authority
from tests.certctrl import machine
from tests.certctrl.machine import Machine
from tests.patience import until

NGINX_UNIT = Path("/lib/systemd/system/nginx.service")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(machine.missing() != "", reason=machine.missing()),
    pytest.mark.skipif(nginx.PROGRAM is None or not NGINX_UNIT.exists(), reason="needs nginx"),
]

PYTHON = "/opt/agent/.venv/bin/python"
ENVIRONMENT = "PYTHONPATH=/opt/agent LD_LIBRARY_PATH=/opt/python/lib"
SITE = """
server {
    listen 127.0.0.1:8443 ssl;
    server_name www.example.com;
    ssl_certificate /etc/nginx/tls/www.pem;
    ssl_certificate_key /etc/nginx/tls/www.key;
}
"""
# A server that issues once at its start, and again for each file in /run/ask.
SERVE = """
import json, pathlib, sys, threading
from tests.agent.fakeserver import FakeServer
from tests.agent.pki import Authority

server, authority, ask = FakeServer(), Authority(), pathlib.Path("/run/ask")
ask.mkdir()
server.issue(7, authority.issue())
pathlib.Path("/run/origin").write_text(server.origin)
while True:
    for path in ask.glob("*"):
        if path.suffix == ".plan":
            server.put_plan(*json.loads(path.read_text()))
        else:
            server.issue(7, authority.issue())
        path.unlink()
    pathlib.Path("/run/events").write_text(json.dumps(server.events))
    threading.Event().wait(0.2)
"""
FAKE = f"""
[Service]
Environment="PYTHONPATH=/opt/server" "LD_LIBRARY_PATH=/opt/python/lib"
ExecStart={PYTHON} /opt/serve.py
"""
DROP_IN = "[Service]\n" + "".join(f"Environment={each}\n" for each in ENVIRONMENT.split())
SETUP = f"""
mkdir -p /opt/agent/.venv/bin
ln -s /opt/python/bin/{Path(sys.executable).resolve().name} {PYTHON}
echo "home = /opt/python/bin" > /opt/agent/.venv/pyvenv.cfg
rm -f /etc/nginx/sites-enabled/*
chmod 600 /etc/nginx/tls/www.key
"""


@pytest.fixture
def booted(tmp_path):
    first = Authority().issue()
    files = {
        "/etc/systemd/system/fake.service": FAKE,
        "/etc/systemd/system/certctrl-agent.service.d/python.conf": DROP_IN,
        "/etc/nginx/conf.d/tls.conf": SITE,
        "/etc/nginx/tls/www.pem": first.fullchain,
        "/etc/nginx/tls/www.key": first.key_pem,
        "/opt/serve.py": SERVE,
    }
    mounts = {
        "/opt/python": Path(sys.base_prefix),
        "/opt/agent/certctrl_agent": PROJECT / "agent/certctrl_agent",
        "/opt/agent/.venv/lib": PROJECT / ".venv/lib",
        "/opt/server/tests": PROJECT / "tests",
    }
    folder = tmp_path / "machine"
    folder.mkdir()
    made = Machine(folder, mounts, files, SETUP)
    try:
        made.boot()
        yield made
    finally:
        made.stop()


def agent(booted: Machine, *arguments: str) -> str:
    environment = [*ENVIRONMENT.split(), f"CERTCTRL_API_KEY={ENROLMENT_KEY}"]
    done = booted.run("env", *environment, PYTHON, "-m", "certctrl_agent", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask(booted: Machine, name: str, text: str = "") -> None:
    script = 'printf %s "$2" > /run/new && mv /run/new "/run/ask/$1"'
    assert booted.run("sh", "-c", script, "sh", name, text).returncode == 0


def reports(booted: Machine) -> list[tuple[str, str]]:
    text = booted.run("cat", "/run/events").stdout
    events = json.loads(text) if text else []
    return [(each["state"], each["what"]) for each in events if each["type"] == "deployment"]


def states(booted: Machine) -> list[str]:
    return [state for state, _ in reports(booted)]


def test_the_confined_service_tests_reloads_and_proves(booted) -> None:
    booted.call("start", "fake.service", "nginx.service")
    assert booted.state("nginx.service") == ["active"], booted.journal("-u", "nginx")
    until(lambda: booted.run("cat", "/run/origin").stdout != "", "the server listens")
    agent(booted, "login", booted.run("cat", "/run/origin").stdout)
    plan = json.loads(agent(booted, "propose", "--certificate", "7"))["installs"]
    assert plan[-1]["cmd_argv"] == ["systemctl", "reload", "nginx"]
    ask(booted, "first.plan", json.dumps(plan))
    until(lambda: agent(booted, "once") is not None and "served" in states(booted), "it is served")

    agent(booted, "install-service", "--write", "/var/log/nginx", "--write", "/run")
    until(lambda: booted.state("certctrl-agent.service") == ["active"], "the service runs")
    ask(booted, "renewal")
    until(lambda: states(booted).count("served") == 2, "the service serves the renewal")

    elsewhere = plan[0] | {"to": ["/opt/www.pem", "/opt/www.key"]}
    ask(booted, "elsewhere.plan", json.dumps([elsewhere]))
    until(lambda: "failed" in states(booted), "a target elsewhere is refused")
    assert "Read-only file system" in reports(booted)[-1][1]

    verified = booted.run("systemd-analyze", "verify", "/etc/systemd/system/certctrl-agent.service")
    assert "certctrl-agent" not in verified.stderr
