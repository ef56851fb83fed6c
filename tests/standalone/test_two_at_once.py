"""Two servers that start at the same time share nothing: ports, name server, CA."""

import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from certctrl.state import StateFile
from lab import ca, loopback
from lab.ca import PROJECT, PYTHON
from lab.loopback import HOST, ZONE, Lab
from lab.nameserver import NameServer, key_of
from lab.upstream import Answer
from lab.webserver import Server, context_of
from standalone import embedded, ports
from standalone.embedded import CannotStart
from tests.patience import LIMIT
from tests.servers import free_port
from tests.standalone.starting import Up

linux = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets")
TAKE = (
    "import sys; from pathlib import Path; from lab import loopback;"
    "print(loopback.free_port(range(25353, 25453), Path(sys.argv[1])), flush=True);"
    "sys.stdin.read()"
)


@linux
def test_processes_that_choose_at_once_choose_different_ports(tmp_path) -> None:
    """No process listens at its port yet."""
    run = [sys.executable, "-c", TAKE]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    choosing = [
        subprocess.Popen([*run, str(tmp_path / str(n))], cwd=PROJECT, **pipes) for n in range(6)
    ]
    try:
        chosen = [int(process.stdout.readline()) for process in choosing]
        assert len(set(chosen)) == 6
    finally:
        for process in choosing:
            process.communicate("", timeout=LIMIT)


@linux
def test_a_port_that_another_owner_holds_is_not_free(tmp_path) -> None:
    port = free_port()
    assert ports.take(HOST, port, tmp_path / "a")
    assert ports.take(HOST, port, tmp_path / "a")
    assert not ports.take(HOST, port, tmp_path / "b")


@pytest.mark.parametrize("kind", [ports.TCP, ports.UDP])
def test_a_port_that_is_taken_for_one_protocol_is_not_free(tmp_path, kind) -> None:
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind((HOST, 0))
        if kind == ports.TCP:
            other.listen()
        assert not ports.take(HOST, other.getsockname()[1], tmp_path)


def test_labs_of_different_data_folders_begin_at_different_ports(tmp_path) -> None:
    first = {
        loopback.in_rotation(loopback.DNS_PORTS, tmp_path / str(number))[0] for number in range(20)
    }
    assert len(first) > 10
    assert (
        loopback.in_rotation(loopback.DNS_PORTS, PROJECT / ".data" / "lab")[0]
        == loopback.DNS_PORTS[0]
    )


@pytest.mark.parametrize("folder", ["a", "b"])
def test_the_ports_are_those_of_the_range_each_once(tmp_path, folder) -> None:
    assert sorted(loopback.in_rotation(loopback.CA_PORTS, tmp_path / folder)) == list(
        loopback.CA_PORTS
    )


def test_without_port_the_web_takes_the_next_free_one(tmp_path, monkeypatch) -> None:
    with socket.create_server((HOST, 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setattr(embedded, "PORTS", range(taken, taken + 20))
        assert taken < embedded.take_port(HOST, None, tmp_path) < taken + 20
        with pytest.raises(CannotStart, match=f"{taken} .*Choose another port"):
            embedded.take_port(HOST, taken, tmp_path)


@linux
def test_a_port_that_was_asked_for_and_is_held_is_refused(tmp_path) -> None:
    port = free_port()
    assert embedded.take_port(HOST, port, tmp_path / "a") == port
    with pytest.raises(CannotStart, match=r"another server that starts now has it.*PORT="):
        embedded.take_port(HOST, port, tmp_path / "b")


def lab_at(folder: Path, port: int, secret: str) -> Lab:
    return Lab(folder, port, 1, secret)


def test_the_name_server_of_another_lab_is_not_taken_for_ours(tmp_path) -> None:
    ours = "b3VyIHNlY3JldCBrZXkgb2YgMzIgYnl0ZXMhIQ=="
    others = "YW5vdGhlciBrZXkgdGhhdCBoYXMgMzIgYnl0ZXM="
    key = key_of(f'key "lab" {{ algorithm hmac-sha256; secret "{ours}"; }};')
    zone = {ZONE: "@ 60 SOA ns1 hostmaster 1 3600 600 86400 5\n@ 60 NS ns1\n"}
    with NameServer(zone, [key]) as server:
        assert lab_at(tmp_path, server.port, ours).name_server_is_ours()
        assert not lab_at(tmp_path, server.port, others).name_server_is_ours()
    assert not lab_at(tmp_path, server.port, ours).name_server_is_ours()


def test_the_ca_of_another_lab_is_not_taken_for_ours(tmp_path) -> None:
    for name in ("ours", "others"):
        ca.prepare(tmp_path / name / "ca", "127.0.0.1:1", "127.0.0.1:2")
    data = tmp_path / "ours" / "ca"
    context = context_of(str(data / "tls.pem"), str(data / "tls.key"))
    server = Server(f"{HOST}:0", lambda request: Answer(200, {}, b"{}"), context)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert Lab(tmp_path / "ours", 1, server.server_port, "secret").ca_is_ours()
        assert not Lab(tmp_path / "others", 1, server.server_port, "secret").ca_is_ours()
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
@pytest.mark.e2e
@linux
@pytest.mark.skipif(not PYTHON.exists(), reason="the lab's CA needs its environment: make lab")
def test_two_make_runs_at_once_each_issue_from_their_own_lab(tmp_path) -> None:
    both = [Up(tmp_path / name, PORT="", LISTEN="127.0.0.3") for name in ("one", "two")]
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(Up.wait, both))
        for server in both:
            assert re.search(r"demo\.lab\.test and \*\.demo\.lab\.test, issued in", server.said), (
                server.said
            )
        states = [StateFile(server.folder / embedded.STATE_FILE) for server in both]
        chosen = [state[name] for state in states for name in ("lab_dns_port", "lab_ca_port")]
        chosen += [
            int(re.search(r"runs at http://127\.0\.0\.3:(\d+)", server.said)[1]) for server in both
        ]
        assert len(set(chosen)) == 6
    finally:
        for server in both:
            server.end(signal.SIGTERM)
