"""The engine below the looks sends many questions at once, on one socket per address family."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator

import dns.message
import dns.rdatatype
import pytest

from certctrl import clock
from dnsclient import queries
from dnsclient.queries import Query
from lab.nameserver import NameServer
from tests.fakes.internet import NS1, silence, zone

TXT = dns.rdatatype.TXT


@pytest.fixture
def server() -> Iterator[NameServer]:
    with NameServer({"example.com": zone(ns1=NS1)}, addresses=[NS1, "::1"]) as server:
        yield server


def queries_to(server: NameServer, count: int, address: str = NS1) -> list[Query]:
    return [
        Query((address, server.port), f"host{number}.example.com", TXT) for number in range(count)
    ]


@pytest.mark.parametrize("address", [NS1, pytest.param("::1", marks=pytest.mark.slow)])
def test_two_thousand_questions_to_one_server_all_get_their_own_answer(
    server: NameServer, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(queries, "PATIENCE", 30)
    for number in (0, 700, 1999):
        server.add(f"host{number}.example.com", "TXT", f"value{number}")
    answers = queries.ask(queries_to(server, 2000, address), 90)
    assert len(answers.got) == 2000
    values = {
        ask.name: str(message.answer[0][0])
        for ask, message in answers.got.items()
        if message.answer
    }
    assert values == {f"host{number}.example.com": f'"value{number}"' for number in (0, 700, 1999)}


def test_the_same_question_asked_twice_is_sent_once(server: NameServer) -> None:
    assert len(queries.ask(queries_to(server, 1) * 3, 5).got) == 1
    assert len(server.seen) == 1


def test_names_are_compared_without_their_case(server: NameServer) -> None:
    server.add("host0.example.com", "TXT", "here")
    asked = Query((NS1, server.port), "HOST0.Example.com", TXT)
    assert queries.ask([asked], 5).got[asked].answer


def test_a_question_without_time_left_differs_from_silence(server: NameServer) -> None:
    server.at(NS1).silent = True
    batch = queries_to(server, 200)
    answers = queries.ask(batch, 0.2)
    assert not answers.got
    assert answers.no_time == set(batch)


def test_a_silent_server_is_not_among_the_unasked(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "PATIENCE", 0.1)
    server.at(NS1).silent = True
    answers = queries.ask(queries_to(server, 100), 5)
    assert (answers.got, answers.no_time) == ({}, set())


def test_many_silent_servers_are_waited_for_together(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "PATIENCE", 1)
    server.at("::1").silent = True
    batch = queries_to(server, 400, "::1") + queries_to(server, 50)
    start = clock.monotonic()
    assert len(queries.ask(batch, 60).got) == 50
    assert clock.monotonic() - start < queries.DEAF


def test_many_silent_servers_leave_time_for_the_servers_behind_them(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "PATIENCE", 1)
    with silence() as silent:
        crowd = [
            Query((f"127.1.{at // 200}.{at % 200}", silent.port), "example.com", TXT)
            for at in range(80 * 32)
        ]
        answers = queries.ask([*crowd, *queries_to(server, 300)], 6)
    assert len(answers.got) == 300
    assert not answers.no_time


def test_a_slow_answer_counts_after_it_lost_its_place_in_the_window(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "WINDOW", 4)
    monkeypatch.setattr(queries, "YOUNG", 0.05)
    server.at(NS1).delay = 0.5
    assert len(queries.ask(queries_to(server, 20), 8).got) == 20


def test_one_of_each_group_comes_in_turn() -> None:
    assert "".join(queries.round_robin(["abc", "", "d", iter("ef")])) == "adebfc"


@pytest.mark.skipif(
    not queries.HAS_ERROR_QUEUE, reason="only Linux tells of closed ports on sockets of this kind"
)
@pytest.mark.parametrize("closed", ["127.0.0.99", "::1"])
def test_closed_ports_beside_open_ones_neither_spin_nor_spoil(
    monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    monkeypatch.setattr(queries, "PATIENCE", 30)
    with NameServer({"example.com": zone(ns1=NS1)}, addresses=[NS1]) as server:
        batch = [
            ask
            for pair in zip(queries_to(server, 200), queries_to(server, 200, closed), strict=True)
            for ask in pair
        ]
        start = clock.monotonic()
        answers = queries.ask(batch, 60)
        assert len(answers.got) == 200
        assert not answers.no_time
        assert clock.monotonic() - start < queries.PATIENCE


def test_no_file_is_left_open(server: NameServer) -> None:
    with socket.socket() as probe:
        before = probe.fileno()
    queries.ask(queries_to(server, 3) + queries_to(server, 3, "::1"), 5)
    with socket.socket() as probe:
        assert probe.fileno() == before


# --- Forgers ---


def forger(answers_of: Callable[[bytes], list[bytes]]) -> tuple[socket.socket, int]:
    """A server that sends the result of `answers_of` for each question."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((NS1, 0))

    def run() -> None:
        while True:
            try:
                wire, asker = sock.recvfrom(4096)
            except OSError:
                return
            if not wire:
                return
            for answer in answers_of(wire):
                sock.sendto(answer, asker)

    threading.Thread(target=run, daemon=True).start()
    return sock, sock.getsockname()[1]


def answer_to(wire: bytes, value: str, name: str = "host.example.com.") -> bytes:
    response = dns.message.make_response(dns.message.from_wire(wire))
    response.question[0].name = (
        response.question[0].name.parent() if name == "other" else response.question[0].name
    )
    response.answer.append(dns.rrset.from_text("host.example.com.", 60, "IN", "TXT", value))
    return response.to_wire()


def another_id(wire: bytes) -> bytes:
    return struct.pack("!H", struct.unpack("!H", wire[:2])[0] ^ 0xFFFF) + wire[2:]


@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(lambda wire: another_id(answer_to(wire, "forged")), id="wrong id"),
        pytest.param(lambda wire: answer_to(wire, "forged", "other"), id="another question"),
        pytest.param(lambda wire: wire, id="the question itself"),
        pytest.param(lambda wire: wire[:2], id="two bytes"),
        pytest.param(
            lambda wire: wire[:2] + b"\x84\0\0\1\0\1\0\0\0\0" + wire[12:-11] + b"\xff" * 9,
            id="garbage",
        ),
        pytest.param(lambda wire: b"", id="nothing"),
    ],
)
def test_a_packet_that_does_not_answer_the_question_is_ignored(
    forge: Callable[[bytes], bytes],
) -> None:
    sock, port = forger(lambda wire: [forge(wire), answer_to(wire, "right")])
    asked = Query((NS1, port), "host.example.com", TXT)
    try:
        assert str(queries.ask([asked], 3).got[asked].answer[0][0]) == '"right"'
    finally:
        sock.sendto(b"", sock.getsockname())
        sock.close()
