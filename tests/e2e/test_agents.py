"""Four nginx servers with an agent each, and a renewal at a private CA, with all real processes."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import nginx
from tests.agent import webservers
from tests.agent.handshakes import served_by
from tests.agent.pki import Authority
from tests.agent.webservers import WebServer
from tests.e2e.realagent import EMAIL, PASSWORD, Agent, Owner
from tests.patience import until
from tests.standalone.starting import Up

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(nginx.PROGRAM is None, reason="needs nginx"),
]

NAME = "www.example.com"


class Installed(Agent):
    """An agent beside a web server."""

    def __init__(self, folder: Path, web: WebServer) -> None:
        super().__init__(folder)
        self.web = web

    def serves(self, serial: str) -> bool:
        return served_by(self.web.port) == serial


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    settings = {"LAB": "0", "ADMIN_EMAIL": EMAIL, "ADMIN_PASSWORD": PASSWORD}
    up = Up(tmp_path / "server", **settings)
    try:
        yield Owner(up.wait().address)
    finally:
        up.end()


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[list[Installed]]:
    """Four agents that have not enrolled, beside servers with certificates of their own."""
    authority = Authority()
    with contextlib.ExitStack() as stack:
        made = []
        for name in ("north", "east", "south", "west"):
            folder = tmp_path / name
            web = stack.enter_context(webservers.nginx(folder, authority.issue(NAME)))
            made.append(Installed(folder, web))
        yield made


def issue(owner: Owner) -> int:
    """Issue a certificate at a new private CA, and assign it to the tag of the fleet."""
    authority = owner.mine("POST", "cas", {"name": "House CA", "algorithm": "ECDSA"})
    spec = {"domain_name": NAME, "validity_seconds": 30 * 24 * 3600}
    number = int(owner.mine("POST", f"cas/{authority['id']}/issue", spec)["id"])
    owner.mine("POST", f"certificates/{number}/assign", {"tag": "edge"})
    return number


def serial_of(owner: Owner, certificate: int) -> str:
    return str(owner.mine("GET", f"certificates/{certificate}")["serial_number"]).lower()


def renew(owner: Owner, certificate: int) -> str:
    """Renew, and return the new serial number."""
    before = serial_of(owner, certificate)
    owner.mine("POST", f"certificates/{certificate}/renew", {})
    until(lambda: serial_of(owner, certificate) != before, "the renewal")
    return serial_of(owner, certificate)


def enrol(owner: Owner, agents: list[Installed], certificate: int) -> list[int]:
    key = owner.enrolment_key()
    devices = [agent.enrol(owner.address, key) for agent in agents]
    for agent, device in zip(agents, devices, strict=True):
        body = {"installs": agent.web.plan(certificate)}
        owner.mine("PUT", f"devices/{device}/install-config", body)
    return devices


def failure(owner: Owner, certificate: int, device: int) -> str:
    """Return why the device failed, or ""."""
    rows = owner.mine("GET", f"certificates/{certificate}/devices")
    [row] = [each for each in rows if each["id"] == device]
    failed = row["deployment"]["failed"]
    return failed["what"] if failed else ""


def notice(owner: Owner) -> str:
    """Return the notices about devices that do not serve, as text."""
    rows = owner.mine("GET", "notices")
    return json.dumps([each for each in rows if each["kind"] == "not_served"])


def test_a_renewal_is_served_by_all_or_rolled_back_with_the_reason(owner, agents) -> None:
    certificate = issue(owner)
    devices = enrol(owner, agents, certificate)
    first = serial_of(owner, certificate)
    with contextlib.ExitStack() as stack:
        for agent in agents:
            stack.enter_context(agent.running())
        until(lambda: all(agent.serves(first) for agent in agents), "all serve the first version")

        # One policy after the other, so that each way of getting a key is used.
        for policy in ("DEVICE_REQUIRED", "MASTER_ONLY", "HYBRID"):
            choice = {"key_dist_policy": policy, "server_decrypt_export": policy == "MASTER_ONLY"}
            owner.mine("PUT", f"certificates/{certificate}", choice)
            second = renew(owner, certificate)
            until(
                lambda serial=second: all(agent.serves(serial) for agent in agents),
                f"all serve the renewal under {policy}",
            )
        until(
            lambda: all(agent.said(f"serves serial {second}") for agent in agents),
            "all have proved it",
        )

        # The first device that has reported is the canary.
        canary, idle, *healthy = agents
        canary.web.break_configuration()
        plan = idle.web.plan(certificate, grace_seconds=1)
        plan[-1] |= {"cmd": ["true"]}
        owner.mine("PUT", f"devices/{devices[1]}/install-config", {"installs": plan})
        until(lambda: idle.said("Running true"), "the plan with an idle reload is there")

        owner.mine("PUT", f"certificates/{certificate}", {"rollout": "canary"})
        third = renew(owner, certificate)
        until(lambda: failure(owner, certificate, devices[0]) != "", "the canary has failed")
        assert "no_such_word" in failure(owner, certificate, devices[0])
        until(lambda: "north" in notice(owner), "a notice names the canary")
        assert "no_such_word" in notice(owner)
        assert all(agent.serves(second) for agent in agents)

        owner.mine("PUT", f"certificates/{certificate}", {"rollout": "all"})
        until(lambda: all(agent.serves(third) for agent in healthy), "the healthy ones serve it")
        until(lambda: failure(owner, certificate, devices[1]) != "", "the idle reload is found")
        shown = f"serves the certificate with serial {second}"
        assert shown in failure(owner, certificate, devices[1])
        assert canary.serves(second)
        assert idle.serves(second)


def test_a_server_that_was_away_is_followed_again(tmp_path, agents) -> None:
    """The agent keeps running while the server is stopped, and restores a removed file."""
    settings = {"LAB": "0", "ADMIN_EMAIL": EMAIL, "ADMIN_PASSWORD": PASSWORD}
    agent = agents[0]
    up = Up(tmp_path / "server", **settings).wait()
    owner = Owner(up.address)
    certificate = issue(owner)
    enrol(owner, [agent], certificate)
    first = serial_of(owner, certificate)
    with agent.running():
        until(lambda: agent.said(f"serves serial {first}"), "the first version is proved")
        up.end()
        until(lambda: agent.said("does not respond"), "the agent notices")
        agent.web.chain.unlink()
        until(agent.web.chain.exists, "the file is restored while the server is away")
        again = Up(tmp_path / "server", **settings, PORT=str(up.port)).wait()
        try:
            owner = Owner(up.address)
            second = renew(owner, certificate)
            until(lambda: agent.serves(second), "the renewal is served")
        finally:
            again.end()
