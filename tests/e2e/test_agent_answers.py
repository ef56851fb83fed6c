"""certctrl-agent proves an address to a real CA, for a server that `manage.py up` runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import pebble, processes
from tests.e2e.realagent import EMAIL, PASSWORD, Agent, Owner
from tests.patience import until
from tests.standalone.starting import Up

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(bool(pebble.missing()), reason=f"needs {pebble.missing()}"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: Any) -> Iterator[pebble.Pebble]:
    with pebble.running(tmp_path_factory.mktemp("pebble")) as started:
        yield started


@pytest.fixture(scope="module")
def owner(lab: pebble.Pebble, tmp_path_factory: Any) -> Iterator[Owner]:
    settings = {"LAB": "0", "ADMIN_EMAIL": EMAIL, "ADMIN_PASSWORD": PASSWORD}
    settings |= {"AGENT_HTTP_PORT": str(lab.ports["http"]), "AGENT_TLS_PORT": str(lab.ports["tls"])}
    settings |= {"ALLOW_PRIVATE": "true"} | processes.lab_settings(lab)
    up = Up(tmp_path_factory.mktemp("up") / "server", **settings)
    try:
        yield Owner(up.wait().address)
    finally:
        up.end()


@pytest.fixture(scope="module")
def account(owner: Owner, lab: pebble.Pebble) -> int:
    body = {
        "ca_provider": "custom",
        "directory_url": lab.directory_url,
        "email": EMAIL,
        "terms_accepted": True,
    }
    return int(owner.mine("POST", "acme-accounts", body)["id"])


@pytest.fixture
def agent(owner: Owner, tmp_path: Path) -> Agent:
    return Agent(tmp_path)


def prove(owner: Owner, account: int, method: str, device: int, name: str) -> Any:
    """Ask for a certificate. Return its last attempt once it has ended."""
    body = {
        "domain": name,
        "acme_account_id": account,
        "verify_method": method,
        "verify_device_id": device,
    }
    number = int(owner.mine("POST", "certificates", body)["id"])
    found: list[Any] = []

    def has_ended() -> bool:
        found[:] = [owner.mine("GET", f"certificates/{number}/issue-result")]
        return found[0]["status"] in ("SUCCESS", "FAILED")

    until(has_ended, "the end of the attempt")
    return found[0]


@pytest.mark.parametrize(("method", "kind"), [("tls-alpn-01", "tlsalpn01"), ("http-01", "http01")])
def test_an_address_is_proved_by_the_agent(owner, account, agent, method, kind):
    device = agent.enrol(owner.address, owner.enrolment_key())
    (agent.folder / "state/config.toml").write_text("challenges = true\n")
    with agent.running():
        until(lambda: agent.said("The WebSocket to the server is open"), "the WebSocket")
        result = prove(owner, account, method, device, "127.0.0.1")
        assert result["status"] == "SUCCESS", result
        assert agent.said(f"Answering {kind}")


def test_an_agent_that_is_not_asked_to_answers_no_challenge(owner, account, agent):
    device = agent.enrol(owner.address, owner.enrolment_key())
    with agent.running():
        result = prove(owner, account, "http-01", device, "127.0.0.2")
    assert result["error_code"] == "device_no_answer"
