"""Send many DNS questions at once, over UDP first. Answers that do not fit are fetched over TCP.

- Each batch opens one new UDP socket for each address family. Late answers to an earlier batch
  never reach it.
- The second try has the same id as the first. A slow answer to the first try still counts.
- The sockets do not block. One worker sends thousands of questions a second and waits for all
  answers at once.
"""

import contextlib
import errno
import functools
import ipaddress
import itertools
import re
import secrets
import select
import socket
import struct
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdatatype

from certctrl import clock, outward

PATIENCE = 2.0  # seconds for each try
TRIES = 2
WINDOW = 512  # most open questions that are younger than YOUNG
# Seconds. Older questions stay open outside the window. Otherwise the silent servers of one zone
# would fill it.
YOUNG = 0.25
WINDOW_PER_SERVER = 64  # most open questions to one server
# Questions sent before answers are read. More answers would overflow the receive buffer.
BURST = 32
# A batch stops asking a server after this many tries in a row without an answer.
DEAF = 8
# A resolver gets more tries, because it may be waiting for the dead servers of another zone.
DEAF_RESOLVER = 128
LANES = 4  # TCP connections to one server at a time
TCP_THREADS = 16
PAYLOAD = 1232  # bytes over UDP, as DNS flag day 2020 recommends

OPT = b"\0" + struct.pack("!HHIH", dns.rdatatype.OPT, PAYLOAD, 0, 0)  # EDNS, RFC 6891
# linux/in.h and linux/in6.h
RECVERR = {
    socket.AF_INET: (socket.IPPROTO_IP, 11),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 25),
}
MSG_ERRQUEUE = 0x2000
HAS_ERROR_QUEUE = sys.platform == "linux"
NO_ROUTE = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EADDRNOTAVAIL,
    errno.EAFNOSUPPORT,
    errno.EINVAL,
}
# A name whose labels need no escapes. dnspython takes ten times as long to encode it.
PLAIN = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
LONGEST_PLAIN = 253
# With these codes a server knows the name, or that there is none.
KNOWN = (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
POINTER = 0xC0  # the two highest bits of a pointer into the message
SOA_RECORD = struct.pack("!HH", dns.rdatatype.SOA, dns.rdataclass.IN)
# Some servers leave the question out of an answer with one of these codes.
WITHOUT_QUESTION = {dns.rcode.FORMERR, dns.rcode.SERVFAIL, dns.rcode.NOTIMP, dns.rcode.REFUSED}

# As in the socket module. The second form is for an IPv6 address that needs a scope.
Address = tuple[str, int] | tuple[str, int, int, int]
One = TypeVar("One")


class Query(NamedTuple):
    """One question to one server.

    `recurse` sets the RD bit, for a resolver. An authoritative server is asked without the RD bit.
    `unchecked` sets the CD bit (RFC 4035, section 3.2.2). A resolver then also answers where
    DNSSEC does not validate.
    """

    server: Address
    name: str
    rdtype: dns.rdatatype.RdataType
    recurse: bool = False
    unchecked: bool = False

    @property
    def flags(self) -> int:
        return (dns.flags.RD if self.recurse else 0) | (dns.flags.CD if self.unchecked else 0)


@dataclass
class Answers:
    """The answers to a batch of questions.

    An answer that has the TC flag is incomplete. It could not be fetched over TCP.
    An answer without records may lack its authority section. It has it when the question was for
    SOA, NS or an address, or when a resolver was asked for TXT records.
    """

    got: dict[Query, dns.message.Message] = field(default_factory=dict)
    # The zone that an authoritative server, or a resolver, names when it has no such record. It is
    # the owner of the SOA record in its answer (RFC 2308, section 2).
    zones: dict[Query, str] = field(default_factory=dict)
    no_route: set[Address] = field(default_factory=set)
    # Questions that the batch had no time for. The servers may well answer them.
    no_time: set[Query] = field(default_factory=set)
    # Questions of which no datagram left this machine. Their servers are not known to be silent.
    unsent: set[Query] = field(default_factory=set)


def address(ip: str, port: int) -> Address:
    """Return an IP address and a port in the form of the socket module.

    `fe80::1%eth0` gets the number of its interface as its scope. Raise ValueError when `ip` is
    not an IP address, or when there is no such interface.
    """
    ip, _, interface = ip.partition("%")
    packed = ipaddress.ip_address(ip).packed
    text = socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
    return (text, port, 0, _scope(interface)) if interface else (text, port)


def _scope(interface: str) -> int:
    if interface.isascii() and interface.isdigit():
        return int(interface)
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        raise ValueError(f"there is no network interface {interface}") from None


def _sender(found: tuple[Any, ...]) -> Address:
    """Return the sender of a datagram, in the form that `address` returns."""
    return found if len(found) == 4 and found[3] else found[:2]


def round_robin(groups: Iterable[Iterable[One]]) -> Iterator[One]:
    """Yield one item of each group, then the next one of each.

    A small group then need not wait for the end of a large one.
    """
    waiting = deque(iter(group) for group in groups)
    while waiting:
        group = waiting.popleft()
        for one in itertools.islice(group, 1):
            yield one
            waiting.append(group)


def ask(queries: Iterable[Query], seconds: float) -> Answers:
    """Send all questions at once and return the answers within `seconds`.

    Missing and invalid answers raise no error.
    """
    outward.let_go()
    batch = _Batch(queries, clock.monotonic() + seconds)
    with contextlib.ExitStack() as sockets:
        batch.sockets = sockets
        batch.over_udp()
    batch.answers.got.update(_over_tcp(batch.too_big, batch.end))
    return batch.answers


@dataclass(slots=True)
class _Flight:
    query: Query
    wire: bytes
    question: bytes
    tries: int
    due: float


class _Batch:
    """The UDP part of a batch: questions to send, open questions, silent servers."""

    sockets: contextlib.ExitStack

    def __init__(self, queries: Iterable[Query], end: float) -> None:
        self.end = end
        self.answers = Answers()
        self.too_big: list[Query] = []
        self.todo: defaultdict[Address, deque[Query]] = defaultdict(deque)
        for each in dict.fromkeys(queries):
            self.todo[each.server].append(each)
            self.answers.unsent.add(each)
        self.ready = deque(self.todo)  # servers that may be asked now
        # Both dicts have their oldest entry first, because each entry gets the same time.
        self.flying: OrderedDict[tuple[Address, bytes], _Flight] = OrderedDict()
        # The values are monotonic times: until then the question counts in the window.
        self.young: OrderedDict[tuple[Address, bytes], float] = OrderedDict()
        self.in_the_air: defaultdict[Address, set[bytes]] = defaultdict(set)
        self.silent: Counter[Address] = Counter()
        self.channels: dict[socket.AddressFamily, socket.socket | None] = {}
        # select() fails on file numbers above 1023.
        self.poll = select.poll()

    def over_udp(self) -> None:
        while (self.ready or self.flying) and clock.monotonic() < self.end:
            self._send_some()
            self._wait()
            for channel in self.channels.values():
                if channel:
                    self._read(channel)
            self._expire()
        self.answers.no_time = {each for queries in self.todo.values() for each in queries}
        self.answers.no_time |= {
            flight.query for flight in self.flying.values() if flight.tries == 1
        }

    # --- Out ---

    def _send_some(self) -> None:
        for _ in range(BURST):
            if not self.ready or self._is_full():
                return
            server = self.ready.popleft()
            queries = self.todo[server]
            if not queries:
                continue
            self._launch(queries.popleft())
            if queries and len(self.in_the_air[server]) < WINDOW_PER_SERVER:
                self.ready.append(server)

    def _is_full(self) -> bool:
        now = clock.monotonic()
        while self.young and next(iter(self.young.values())) <= now:
            self.young.popitem(last=False)
        return len(self.young) >= WINDOW

    def _launch(self, asked: Query) -> None:
        ident = secrets.token_bytes(2)
        while ident in self.in_the_air[asked.server]:
            ident = secrets.token_bytes(2)
        try:
            question = _question(asked.name, asked.rdtype)
        except (dns.exception.DNSException, UnicodeError):
            # The name does not fit in a DNS message.
            return
        wire = ident + struct.pack("!HHHHH", asked.flags, 1, 0, 0, 1) + question + OPT
        if self._send(wire, asked.server):
            self.answers.unsent.discard(asked)
            now = clock.monotonic()
            self.flying[asked.server, ident] = _Flight(asked, wire, question, 1, now + PATIENCE)
            self.young[asked.server, ident] = now + YOUNG
            self.in_the_air[asked.server].add(ident)

    def _send(self, wire: bytes, server: Address) -> bool:
        """Return False when there is no route to the server.

        A question that is lost for another reason is sent again after PATIENCE.
        """
        channel = self._channel(socket.AF_INET6 if ":" in server[0] else socket.AF_INET)
        if channel is None:
            self._without_route(server)
            return False
        # The first call may report an ICMP error about another server.
        for _ in range(2):
            try:
                channel.sendto(wire, server)
            except BlockingIOError:
                return True
            except OSError as exc:
                trouble = exc.errno
            else:
                return True
        if trouble in NO_ROUTE:
            self._without_route(server)
            return False
        return True

    def _channel(self, family: socket.AddressFamily) -> socket.socket | None:
        """Return this batch's socket for the address family.

        Return None on a machine without this family.
        """
        if family not in self.channels:
            self.channels[family] = None
            with contextlib.suppress(OSError):
                channel = self.sockets.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                channel.setblocking(False)
                if HAS_ERROR_QUEUE:
                    # A closed port is then reported at once, and not only after PATIENCE.
                    channel.setsockopt(*RECVERR[family], 1)
                self.poll.register(channel, select.POLLIN)
                self.channels[family] = channel
        return self.channels[family]

    # --- In ---

    def _wait(self) -> None:
        """Wait until one of these happens.

        - A datagram or an ICMP error arrives.
        - The time of the oldest open question is over.
        - The window has room for the next question.
        """
        until = self.end
        if self.flying:
            until = min(until, next(iter(self.flying.values())).due)
        may_send = self.ready and not self._is_full()
        if self.ready and self.young:
            until = min(until, next(iter(self.young.values())))
        pause = 0.0 if may_send or not self.flying else max(0.0, until - clock.monotonic())
        self.poll.poll(pause * 1000 + (1 if pause else 0))

    def _read(self, channel: socket.socket) -> None:
        # Read the error queue first. poll() returns at once while this queue has entries.
        for server in _unreachable(channel):
            self._give_up(server)
        for server, wire in _datagrams(channel):
            self._take(server, wire)

    def _take(self, server: Address, wire: bytes) -> None:
        """Take a datagram as an answer if server, id and question are those of an open question.

        Discard all other datagrams.
        """
        flight = self.flying.get((server, wire[:2]))
        if flight is None or not _is_answer(wire, flight.question):
            return
        message = _parsed(wire, flight.query)
        truncated = bool(wire[2] & 0x02)
        if message is None and not truncated:
            return
        self._land(server, wire[:2])
        self.silent[server] = 0
        if message is not None:
            self.answers.got[flight.query] = message
            if _has_header_only(wire, flight.query) and (zone := _zone_in(wire, flight)):
                self.answers.zones[flight.query] = zone
        # The answer did not fit, or the server does not know EDNS.
        if truncated or wire[3] & 0x0F in (dns.rcode.FORMERR, dns.rcode.NOTIMP):
            self.too_big.append(flight.query)

    def _land(self, server: Address, ident: bytes) -> _Flight:
        flight = self.flying.pop((server, ident))
        self.young.pop((server, ident), None)
        self.in_the_air[server].remove(ident)
        if self.todo[server] and len(self.in_the_air[server]) == WINDOW_PER_SERVER - 1:
            self.ready.append(server)
        return flight

    def _expire(self) -> None:
        """Send overdue questions again. Drop them after the last try."""
        now = clock.monotonic()
        while self.flying:
            (server, ident), flight = next(iter(self.flying.items()))
            if flight.due > now:
                return
            self.silent[server] += 1
            is_deaf = self.silent[server] >= (DEAF_RESOLVER if flight.query.recurse else DEAF)
            if is_deaf:
                self.todo[server].clear()
            if flight.tries < TRIES and not is_deaf and self._send(flight.wire, server):
                flight.tries += 1
                flight.due = now + PATIENCE
                self.flying.move_to_end((server, ident))
            elif (server, ident) in self.flying:
                self._land(server, ident)

    def _without_route(self, server: Address) -> None:
        self.answers.no_route.add(server)
        self._give_up(server)

    def _give_up(self, server: Address) -> None:
        """Drop all questions of this batch to a server that cannot be reached."""
        self.todo[server].clear()
        for ident in self.in_the_air.pop(server, ()):
            del self.flying[server, ident]
            self.young.pop((server, ident), None)


def _unreachable(channel: socket.socket) -> Iterator[Address]:
    """Yield the servers that the pending ICMP errors are about."""
    while HAS_ERROR_QUEUE:
        try:
            _, _, _, server = channel.recvmsg(0, 512, MSG_ERRQUEUE)
        except OSError:
            return
        yield _sender(server)


def _datagrams(channel: socket.socket) -> Iterator[tuple[Address, bytes]]:
    for _ in range(WINDOW):
        try:
            wire, server = channel.recvfrom(65535)
        except BlockingIOError:
            return
        except OSError:
            # This is a pending ICMP error. The error queue names the server that it is about.
            continue
        yield _sender(server), wire


# --- Messages (RFC 1035, section 4) ---


@functools.lru_cache(maxsize=1024)
def _question(name: str, rdtype: dns.rdatatype.RdataType) -> bytes:
    return _wire_of(name.lower()) + struct.pack("!HH", rdtype, dns.rdataclass.IN)


def _wire_of(name: str) -> bytes:
    if len(name) <= LONGEST_PLAIN and PLAIN.fullmatch(name):
        labels = name.encode().split(b".")
        return b"".join(bytes((len(each),)) + each for each in labels) + b"\0"
    wire: bytes = dns.name.from_text(name).to_wire()  # type: ignore[assignment]
    return wire


def _is_answer(wire: bytes, question: bytes) -> bool:
    """Return whether the message is a response (QR) to a standard query with this question.

    Some error responses have no question.
    """
    if len(wire) < 12 or wire[2] & 0xF8 != 0x80:
        return False
    questions = wire[4:6]
    if questions == b"\0\1":
        return wire[12 : 12 + len(question)].lower() == question.lower()
    return questions == b"\0\0" and wire[3] & 0x0F in WITHOUT_QUESTION


def _has_header_only(wire: bytes, asked: Query) -> bool:
    """Return whether the header of the answer is enough.

    Most questions for these records get an answer without one. Parsing it whole is most of the
    work. A resolver's answer about a TXT record is parsed whole. Its authority section says how
    long the resolver caches the negative answer.
    """
    return wire[6:8] == b"\0\0" and (
        asked.rdtype in (dns.rdatatype.CAA, dns.rdatatype.CNAME)
        or (asked.rdtype == dns.rdatatype.TXT and not asked.recurse)
    )


def _parsed(wire: bytes, asked: Query) -> dns.message.Message | None:
    if _has_header_only(wire, asked):
        message = dns.message.QueryMessage(int.from_bytes(wire[:2]))
        message.flags = int.from_bytes(wire[2:4])
        return message
    try:
        return dns.message.from_wire(wire, keyring=False, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError):
        return None


def _zone_in(wire: bytes, flight: _Flight) -> str:
    """Return the zone that an answer without records names.

    Return an empty string without a SOA record, and for an answer that is not authoritative
    although no resolver was asked.
    """
    question = flight.question
    is_proper = flight.query.recurse or wire[2] & 0x04
    is_denial = is_proper and not wire[2] & 0x02 and wire[3] & 0x0F in KNOWN
    if not is_denial or wire[4:6] != b"\0\1":
        return ""
    start = 12 + len(question)
    try:
        end = start
        while 0 < wire[end] < POINTER:
            end += 1 + wire[end]
        owner = wire[start : end + 1]
        if wire[end]:  # the rest of the name is in the question
            rest = int.from_bytes(wire[end : end + 2]) - (POINTER << 8)
            owner = wire[start:end] + question[rest - 12 : -4] if 12 <= rest < start else b""
            end += 1
    except IndexError:
        return ""
    return _name_in(owner) if wire[end + 1 : end + 5] == SOA_RECORD else ""


@functools.lru_cache(maxsize=1024)
def _name_in(wire: bytes) -> str:
    try:
        return dns.name.from_wire(wire, 0)[0].to_text(omit_final_dot=True).lower()
    except dns.exception.DNSException:
        return ""


# --- TCP ---


def _over_tcp(queries: Iterable[Query], end: float) -> dict[Query, dns.message.Message]:
    """Ask again over TCP, with at most LANES connections to each server at a time.

    A connection that fails ends its lane.
    """
    lanes: defaultdict[tuple[Address, int], list[Query]] = defaultdict(list)
    for number, each in enumerate(queries):
        lanes[each.server, number % LANES].append(each)
    if not lanes:
        return {}
    got: dict[Query, dns.message.Message] = {}
    with ThreadPoolExecutor(min(TCP_THREADS, len(lanes)), "dns-tcp") as pool:
        for found in pool.map(functools.partial(_lane, end=end), lanes.values()):
            got.update(found)
    return got


def _lane(queries: list[Query], end: float) -> dict[Query, dns.message.Message]:
    got = {}
    for each in queries:
        left = min(2 * PATIENCE, end - clock.monotonic())
        if left <= 0:
            break
        query = dns.message.make_query(each.name, each.rdtype, flags=each.flags)
        try:
            got[each] = dns.query.tcp(
                query, _with_scope(each.server), left, each.server[1], ignore_trailing=True
            )
        except (OSError, EOFError, dns.exception.DNSException, ValueError):
            break
    return got


def _with_scope(server: Address) -> str:
    return f"{server[0]}%{server[3]}" if len(server) == 4 else server[0]
