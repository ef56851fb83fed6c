"""The lab's name server, with dig, nsupdate and our own RFC 2136 provider."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.tsig
import dns.update
import pytest

from dnsproviders.base import ProviderError
from dnsproviders.providers.rfc2136 import RFC2136
from lab.nameserver import NameServer, free_port, key_of
from lab.zones import apex
from tests.dnsproviders.making import provider_of, record_of
from tests.fakes.internet import zone
from tests.patience import LIMIT

HERE = "127.0.0.1"
SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
KEY_FILE = f'key "lab" {{\n  algorithm hmac-sha256;\n  secret "{SECRET}";\n}};\n'
NAME = "_acme-challenge.demo.lab.test"


@pytest.fixture
def server() -> Iterator[NameServer]:
    with NameServer({"lab.test": apex()}, [key_of(KEY_FILE)], [HERE]) as server:
        yield server


def ask(server: NameServer, name: str, rdtype: str = "TXT", **kwargs: Any) -> dns.message.Message:
    return dns.query.udp(
        dns.message.make_query(name, rdtype, **kwargs), HERE, timeout=LIMIT, port=server.port
    )


def program(name: str) -> str:
    path = shutil.which(name)
    if not path:
        pytest.skip(f"{name} is absent: apt-get install bind9-dnsutils")
    return path


# --- Questions ---


def test_the_apex_has_what_a_zone_needs(server: NameServer) -> None:
    for rdtype in ("SOA", "NS", "A"):
        answer = ask(server, "lab.test", rdtype)
        assert answer.answer
        assert answer.flags & dns.flags.AA


def test_a_name_that_is_not_there_is_refused_with_the_zones_soa(server: NameServer) -> None:
    answer = ask(server, NAME)
    assert (answer.rcode(), answer.authority[0].rdtype.name) == (dns.rcode.NXDOMAIN, "SOA")


def test_a_name_above_others_exists_without_records(server: NameServer) -> None:
    server.add(NAME, "TXT", "one")
    for name in ("demo.lab.test", NAME):
        answer = ask(server, name, "A")
        assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])
        assert answer.authority


def test_names_of_other_zones_are_refused(server: NameServer) -> None:
    assert ask(server, "example.com").rcode() == dns.rcode.REFUSED


def test_cnames_are_answered_and_followed_within_the_zones(server: NameServer) -> None:
    server.add("other.lab.test", "TXT", "there")
    server.add(NAME, "CNAME", "other.lab.test.")
    assert [rrset.rdtype.name for rrset in ask(server, NAME).answer] == ["CNAME", "TXT"]
    assert [rrset.rdtype.name for rrset in ask(server, NAME, "CNAME").answer] == ["CNAME"]


def test_cnames_in_a_circle_end(server: NameServer) -> None:
    server.add("a.lab.test", "CNAME", "b.lab.test.")
    server.add("b.lab.test", "CNAME", "a.lab.test.")
    assert ask(server, "a.lab.test").answer


def test_a_wildcard_answers_for_missing_names(server: NameServer) -> None:
    server.add("*.lab.test", "TXT", "wild")
    server.add("real.lab.test", "A", "192.0.2.1")
    assert str(ask(server, "any.where.lab.test").answer[0].name) == "any.where.lab.test."
    assert not ask(server, "real.lab.test").answer
    assert not ask(server, "below.real.lab.test").answer


def test_a_delegation_is_a_referral() -> None:
    with NameServer({"lab.test": zone(ns1=HERE)}) as server:
        server.add("sub.lab.test", "NS", "ns.sub.lab.test.")
        server.add("ns.sub.lab.test", "A", "192.0.2.9")
        answer = ask(server, "deep.sub.lab.test")
        assert (answer.answer, bool(answer.flags & dns.flags.AA)) == ([], False)
        assert [str(rrset.name) for rrset in (*answer.authority, *answer.additional)] == [
            "sub.lab.test.",
            "ns.sub.lab.test.",
        ]


def test_a_long_answer_is_cut_over_udp_and_whole_over_tcp(server: NameServer) -> None:
    server.add(NAME, "TXT", *(f"{number:0200}" for number in range(30)))
    assert ask(server, NAME).flags & dns.flags.TC
    whole = dns.query.tcp(
        dns.message.make_query(NAME, "TXT"), HERE, timeout=LIMIT, port=server.port
    )
    assert len(whole.answer[0]) == 30


@pytest.mark.parametrize(
    "wire", [b"", b"\0", b"\0" * 12, b"\xff" * 40, b"\0\1\1\0\0\1\0\0\0\0\0\0\xff\xff\xff"]
)
def test_garbage_does_not_stop_it(server: NameServer, wire: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(wire, (HERE, server.port))
    assert ask(server, "lab.test", "SOA").answer


def test_many_ask_and_update_at_once(server: NameServer) -> None:
    provider = adapter(server)

    def write(number: int) -> int:
        provider.present(record_of("lab.test", f"value{number}", name=NAME))
        return len(ask(server, "lab.test", "SOA").answer)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(write, range(40))) == 40
    assert len(server.txt()) == 40


# --- Updates ---


def adapter(server: NameServer, secret: str = SECRET, key_name: str = "lab") -> RFC2136:
    place = {"server": HERE, "port": server.port, "key_name": key_name, "algorithm": "hmac-sha256"}
    found: RFC2136 = provider_of(RFC2136, {"secret": secret}, **place)
    return found


def test_our_adapter_finds_the_zone_writes_beside_and_removes_one(server: NameServer) -> None:
    provider = adapter(server)
    provider.check()
    assert provider.zone_of(NAME) == "lab.test"
    one, two = (record_of("lab.test", value, name=NAME) for value in ("one", "two"))
    for record in (one, two, one):
        provider.present(record)
    assert server.txt() == [(NAME, "one"), (NAME, "two")]
    assert (provider.cleanup(one), provider.cleanup(one)) == (1, 0)
    assert server.txt() == [(NAME, "two")]


@pytest.mark.parametrize(
    ("secret", "key_name"),
    [(SECRET.replace("AAEC", "BBEC"), "lab"), (SECRET, "another")],
    ids=["secret", "name"],
)
def test_a_wrong_key_changes_nothing_and_is_reported(
    server: NameServer, secret: str, key_name: str
) -> None:
    with pytest.raises(ProviderError) as caught:
        adapter(server, secret, key_name).present(record_of("lab.test", "one", name=NAME))
    assert caught.value.code == "dns_credential_refused"
    assert server.txt() == []


def update(
    server: NameServer, message: dns.update.UpdateMessage, signed: bool = True
) -> dns.rcode.Rcode:
    if signed:
        message.use_tsig(key_of(KEY_FILE))
    return dns.query.tcp(message, HERE, timeout=LIMIT, port=server.port).rcode()


def test_an_update_without_a_key_is_refused(server: NameServer) -> None:
    message = dns.update.UpdateMessage("lab.test.")
    message.add("x", 60, "TXT", "one")
    assert update(server, message, signed=False) == dns.rcode.REFUSED
    assert server.txt() == []


def test_a_signature_of_long_ago_is_refused(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = dns.update.UpdateMessage("lab.test.")
    message.add("x", 60, "TXT", "one")
    message.use_tsig(key_of(KEY_FILE))
    at = dns.message.time.time() - 3600
    with monkeypatch.context() as patch:
        patch.setattr(dns.message.time, "time", lambda: at)
        wire = message.to_wire()
    with pytest.raises(dns.tsig.PeerBadTime):
        dns.message.from_wire(
            server._answer(HERE, wire, udp=False) or b"",
            keyring=key_of(KEY_FILE),
            request_mac=message.mac,
        )
    assert server.txt() == []


def test_an_update_of_another_zone_is_refused(server: NameServer) -> None:
    assert update(server, dns.update.UpdateMessage("example.com.")) == dns.rcode.NOTAUTH


def test_prerequisites_are_kept(server: NameServer) -> None:
    server.add("x.lab.test", "TXT", "one")
    for rcode, demand in (
        (dns.rcode.YXDOMAIN, lambda message: message.absent("x")),
        (dns.rcode.YXRRSET, lambda message: message.absent("x", "TXT")),
        (dns.rcode.NXDOMAIN, lambda message: message.present("y")),
        (dns.rcode.NXRRSET, lambda message: message.present("x", "A")),
        (dns.rcode.NXRRSET, lambda message: message.present("x", "TXT", "two")),
        (dns.rcode.NOERROR, lambda message: message.present("x", "TXT", "one")),
    ):
        message = dns.update.UpdateMessage("lab.test.")
        demand(message)
        message.add("z", 60, "TXT", "here")
        assert update(server, message) == rcode
    assert ("z.lab.test", "here") in server.txt()


def test_the_apex_keeps_its_soa_and_its_servers(server: NameServer) -> None:
    message = dns.update.UpdateMessage("lab.test.")
    message.delete("@")
    assert update(server, message) == dns.rcode.NOERROR
    assert ask(server, "lab.test", "NS").answer
    assert not ask(server, "lab.test", "A").answer


def test_nsupdate_and_dig_agree_with_it(server: NameServer, tmp_path: Path) -> None:
    nsupdate = program("nsupdate")
    dig = program("dig")
    key = tmp_path / "key"
    key.write_text(KEY_FILE)
    lines = (
        f"server {HERE} {server.port}\n"
        f'update add {NAME} 60 TXT "one" "more"\n'
        f"update add {NAME} 60 TXT two\n"
        "send\n"
    )
    subprocess.run([nsupdate, "-k", str(key)], input=lines, text=True, check=True, timeout=LIMIT)
    run = [dig, f"@{HERE}", "-p", str(server.port), "+short", NAME, "TXT"]
    shown = subprocess.run(run, capture_output=True, text=True, check=True, timeout=LIMIT).stdout
    assert sorted(shown.splitlines()) == ['"one" "more"', '"two"']
    lines = f"server {HERE} {server.port}\nupdate delete {NAME} TXT\nsend\n"
    subprocess.run([nsupdate, "-k", str(key)], input=lines, text=True, check=True, timeout=LIMIT)
    assert server.txt() == []


# --- The command ---


def start(*arguments: str, **environment: str) -> tuple["subprocess.Popen[str]", str]:
    """Return the process, and the line that it prints when it is ready."""
    run = [sys.executable, "-m", "lab.nameserver", *arguments]
    environ = {
        name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ
    } | environment
    process = subprocess.Popen(
        run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ
    )
    assert process.stdout
    return process, process.stdout.readline()


def test_the_command_answers_until_it_is_stopped_and_keeps_its_state(tmp_path: Path) -> None:
    key = tmp_path / "tsig.key"
    port = free_port(HERE)
    key.write_text(KEY_FILE)
    run = [
        "--listen",
        f"{HERE}:{port}",
        "--zone",
        "lab.test",
        "--tsig-file",
        str(key),
        "--state",
        str(tmp_path / "s"),
    ]
    for values in (["one"], ["one", "two"]):
        process, line = start(*run)
        assert line == f"The name server of lab.test listens on port {port}.\n"
        server = NameServer({}, port=port)
        adapter(server).present(record_of("lab.test", values[-1], name=NAME))
        assert sorted(rdata.strings[0].decode() for rdata in ask(server, NAME).answer[0]) == values
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0


def test_the_key_may_come_from_the_environment(tmp_path: Path) -> None:
    port = free_port(HERE)
    process, _ = start(
        "--listen", f"{HERE}:{port}", "--zone", "lab.test", LAB_TSIG=f"lab:hmac-sha256:{SECRET}"
    )
    try:
        adapter(NameServer({}, port=port)).check()
    finally:
        process.terminate()
        process.wait(LIMIT)


def test_an_invalid_key_is_reported_without_printing_it(tmp_path: Path) -> None:
    key = tmp_path / "tsig.key"
    key.write_text(f"lab hmac-sha256 {SECRET}")
    process, _ = start("--listen", f"{HERE}:0", "--zone", "lab.test", "--tsig-file", str(key))
    assert process.stdout
    said = process.stdout.read()
    assert process.wait(LIMIT) == 2
    assert "The TSIG key must have the form" in said
    assert SECRET not in said


def test_a_port_in_use_is_reported(server: NameServer) -> None:
    process, line = start("--listen", f"{HERE}:{server.port}", "--zone", "lab.test")
    assert line.startswith(f"The name server cannot listen on port {server.port}")
    assert process.wait(LIMIT) == 1
