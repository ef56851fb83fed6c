"""Agents answer http-01 and tls-alpn-01 for a real CA, over real processes."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e import pebble, processes
from tests.e2e.agent import Agent
from tests.e2e.processes import Site, until
from tests.patience import LIMIT

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(bool(processes.missing()), reason=f"needs {processes.missing()}"),
]
LEFT = "SELECT id FROM devices_agentchallenge WHERE device_id = %s"
NAMES = ["agents.pebble.test", "127.0.0.1"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: Any) -> Iterator[pebble.Pebble]:
    with pebble.running(tmp_path_factory.mktemp("pebble")) as started:
        yield started


@pytest.fixture(scope="module")
def site(lab: pebble.Pebble) -> Iterator[Site]:
    ports = {
        "AGENT_HTTP_PORT": str(lab.ports["http"]),
        "AGENT_TLS_PORT": str(lab.ports["tls"]),
    }
    with processes.running(lab, **ports) as started:
        yield started


@pytest.fixture
def account(site: Site, lab: pebble.Pebble) -> int:
    """An account of its own. Pebble may give an account a valid authorization again, one in 100."""
    return site.account(lab)


def ask(site: Site, account: int, method: str, device: int, *names: str) -> int:
    body = {
        "domain": names[0],
        "sans": list(names[1:]),
        "acme_account_id": account,
        "verify_method": method,
        "verify_device_id": device,
    }
    return int(site.call("POST", "certificates", body)["id"])


def ended(site: Site, certificate: int) -> Any:
    """Return the last attempt once it has ended."""

    def attempt() -> Any:
        found = site.call("GET", f"certificates/{certificate}/issue-result")
        return found if found["status"] in ("SUCCESS", "FAILED") else None

    return until(attempt, LIMIT, "the end of the attempt")


@pytest.mark.parametrize("method", ["http-01", "tls-alpn-01"])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_or_an_address_is_proved_by_its_agent(site, account, method, name):
    kind = method.replace("-", "")
    with Agent(site) as agent:
        result = ended(site, ask(site, account, method, agent.id, name))
        assert result["status"] == "SUCCESS", result
        until(lambda: not site.rows(LEFT, agent.id), LIMIT, "the ack of the stop")
    assert not agent.serving
    assert agent.heard == [f"acme.{kind}.start", f"acme.{kind}.stop"]


def test_an_agent_that_is_away_or_silent_fails_the_attempt(site, account):
    away = Agent(site)
    certificates = [ask(site, account, "http-01", away.id, "away.pebble.test")]
    with Agent(site, answers=False) as silent:
        certificates.append(ask(site, account, "http-01", silent.id, "silent.pebble.test"))
        results = [ended(site, each) for each in certificates]
    for result in results:
        assert result["status"] == "FAILED"
        assert result["error_code"] == "device_no_answer", result
    answered = "SELECT count(*) FROM issuance_authorization WHERE answered_at IS NULL"
    assert site.rows(answered)[0]["count"] == 2
