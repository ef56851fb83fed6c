"""The server can be called where it listens, for every spelling of LISTEN."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest
import requests
from django.test import override_settings

from certctrl import listening
from certctrl.state import StateFile
from lab.ca import PROJECT
from standalone import embedded
from standalone.embedded import CannotStart, Embedded
from tests.patience import LIMIT, until
from tests.servers import free_port
from tests.standalone.starting import Up

SPELLINGS = [
    ("", "127.0.0.1"),
    ("127.0.0.1", "127.0.0.1"),
    ("127.0.0.2", "127.0.0.2"),
    ("127.1", "127.0.0.1"),
    ("0.0.0.0", "127.0.0.1"),
    ("0", "127.0.0.1"),
    ("::1", "[::1]"),
    ("[::1]", "[::1]"),
    ("0:0:0:0:0:0:0:1", "[::1]"),
    ("::", "[::1]"),
    ("[::]", "[::1]"),
    ("localhost", "localhost"),
    ("LocalHost", "localhost"),
    ("certctrl.example", "certctrl.example"),
    (" ::1 ", "[::1]"),
]


@pytest.mark.parametrize(("listen", "printed"), SPELLINGS)
def test_the_printed_address_is_a_url_that_the_server_takes(
    tmp_path, client_of, listen, printed
) -> None:
    host = embedded.listen_of(listen)
    server = Embedded(tmp_path, StateFile(tmp_path / "state"), host, 8080, None, None, -1)
    assert server.address == f"http://{printed}:8080"
    with override_settings(ALLOWED_HOSTS=listening.allowed_hosts(listen)):
        assert client_of().get("/auth/status", HTTP_HOST=f"{printed}:8080").status_code == 200


@pytest.mark.parametrize(
    "listen", ["*", "[::1", "::1]", "127.0.0.1:8080", "[::1]:8080", "http://here", "a b", "ü"]
)
def test_a_listen_that_is_no_address_is_a_sentence(listen) -> None:
    with pytest.raises(
        CannotStart, match=r"LISTEN is .* for example LISTEN=::1\. The setting PORT has the port\."
    ):
        embedded.listen_of(listen)
    assert "localhost" in listening.allowed_hosts(listen)


def test_the_zone_of_a_link_local_address_is_not_in_the_host_header() -> None:
    assert listening.host_of("[fe80::1%lo]") == "fe80::1%lo"
    assert listening.in_url("fe80::1%lo") == "[fe80::1%25lo]"
    assert "[fe80::1]" in listening.allowed_hosts("fe80::1%lo")


def test_on_all_addresses_it_is_called_by_the_machines_own_names() -> None:
    hosts = listening.allowed_hosts("0.0.0.0")
    assert socket.gethostname().lower() in hosts
    assert {"localhost", "127.0.0.1", "[::1]"} <= set(hosts)
    assert "*" not in hosts


def test_on_one_address_it_is_called_by_no_other() -> None:
    assert listening.allowed_hosts("127.0.0.2") == ["localhost", "127.0.0.1", "[::1]", "127.0.0.2"]


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("listen", "printed"),
    [
        ("[::1]", "[::1]"),
        pytest.param("127.0.0.2", "127.0.0.2", marks=pytest.mark.slow),
        pytest.param("localhost", "localhost", marks=pytest.mark.slow),
    ],
)
def test_the_deployed_web_process_can_be_called_where_it_listens(tmp_path, listen, printed) -> None:
    port = free_port()
    environment = {
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "DATA_DIR": str(tmp_path),
        "SECRET_KEY": "of-a-test",
        "MASTER_KEYS": "1:" + "A" * 43 + "=",
        "LISTEN": listen,
        "PORT": str(port),
    }
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            ["deploy/run", "web"], cwd=PROJECT, env=environment, stdout=out, stderr=out
        )
    try:
        until(
            lambda: answers(f"http://{printed}:{port}/auth/status") or process.poll() is not None,
            "web answers",
        )
        assert answers(f"http://{printed}:{port}/auth/status") == 200, (
            tmp_path / "out"
        ).read_text()
    finally:
        process.terminate()
        process.wait(LIMIT)


def answers(url: str) -> int:
    with requests.Session() as session:
        session.trust_env = False
        try:
            return session.get(url, timeout=LIMIT).status_code
        except requests.ConnectionError:
            return 0


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_make_run_on_an_ipv6_address_prints_where_it_can_be_called(tmp_path) -> None:
    server = Up(tmp_path / "data", LAB="0", LISTEN="[::1]")
    try:
        server.wait()
        address = re.search(r"certctrl runs at (\S+)", server.said)
        assert address
        assert address[1] == f"http://[::1]:{server.port}"
        assert answers(f"{address[1]}/auth/status") == 200
    finally:
        server.end(signal.SIGKILL)
