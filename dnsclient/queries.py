"""Many DNS questions at once, over one fresh UDP socket for each family, then over TCP what did not fit.

Fresh sockets, so that late answers of an earlier batch never come in; the same id on the second try, so that a slow
answer to the first one counts; non-blocking, so that one worker asks thousands a second and waits for all at once.
"""

import contextlib
import errno
import functools
import ipaddress
import itertools
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
WINDOW = 512  # young questions in the air
YOUNG = 0.25  # seconds; what is older is waited for beside the window, or the silent servers of one zone would fill it
WINDOW_PER_SERVER = 64
BURST = 32  # questions sent before answers are read: more would overflow the receive buffer
DEAF = 8  # a server that was silent so often in a row is not asked again in this batch
DEAF_RESOLVER = 128  # more for a resolver: it may only be waiting for somebody else's dead servers
LANES = 4  # TCP connections to one server at a time
TCP_THREADS = 16
PAYLOAD = 1232  # bytes over UDP, as DNS flag day 2020 recommends

OPT = b"\0" + struct.pack("!HHIH", dns.rdatatype.OPT, PAYLOAD, 0, 0)  # EDNS, RFC 6891
RECVERR = {
    socket.AF_INET: (socket.IPPROTO_IP, 11),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 25),
}  # linux/in.h, in6.h
MSG_ERRQUEUE = 0x2000
HAS_ERROR_QUEUE = sys.platform == "linux"
NO_ROUTE = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EADDRNOTAVAIL,
    errno.EAFNOSUPPORT,
    errno.EINVAL,
}
WITHOUT_QUESTION = {dns.rcode.FORMERR, dns.rcode.SERVFAIL, dns.rcode.NOTIMP, dns.rcode.REFUSED}

Address = (
    tuple[str, int] | tuple[str, int, int, int]
)  # as the socket module has it; with a scope where it needs one
One = TypeVar("One")


class Ask(NamedTuple):
    """One question to one server. `recurse` asks a resolver to find out, instead of a server what it has; `unchecked`
    has it answer even where DNSSEC does not validate (the CD bit, RFC 4035, section 3.2.2)."""

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
    """What came back. An answer that stayed truncated has its TC flag set; a server's about TXT records that has none
    may lack its authority section."""

    got: dict[Ask, dns.message.Message] = field(default_factory=dict)
    no_route: set[Address] = field(default_factory=set)
    unasked: set[Ask] = field(default_factory=set)  # the time was over: nothing is known of these


def address(ip: str, port: int) -> Address:
    """An address as the socket module spells it, `fe80::1%eth0` with the number of its interface. Raises ValueError."""
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
    """Who sent a datagram, in the form in which it was asked."""
    return found if len(found) == 4 and found[3] else found[:2]


def in_turns(groups: Iterable[Iterable[One]]) -> Iterator[One]:
    """One of each group after the other, so that a small group need not wait for the end of a large one."""
    waiting = deque(iter(group) for group in groups)
    while waiting:
        group = waiting.popleft()
        for one in itertools.islice(group, 1):
            yield one
            waiting.append(group)


def ask(asks: Iterable[Ask], seconds: float) -> Answers:
    """Ask everything at once and end within so many seconds. Raises nothing for what servers do or leave undone."""
    outward.let_go()
    batch = _Batch(asks, clock.monotonic() + seconds)
    with contextlib.ExitStack() as sockets:
        batch.sockets = sockets
        batch.over_udp()
    batch.answers.got.update(_over_tcp(batch.too_big, batch.end))
    return batch.answers


@dataclass(slots=True)
class _Flight:
    ask: Ask
    wire: bytes
    question: bytes
    tries: int
    due: float


class _Batch:
    """The UDP part: what is to be asked, what is in the air, who has been silent."""

    sockets: contextlib.ExitStack

    def __init__(self, asks: Iterable[Ask], end: float) -> None:
        self.end = end
        self.answers = Answers()
        self.too_big: list[Ask] = []
        self.todo: defaultdict[Address, deque[Ask]] = defaultdict(deque)
        for each in dict.fromkeys(asks):
            self.todo[each.server].append(each)
        self.ready = deque(self.todo)  # servers that may be asked now
        # Oldest first, both: the same patience for all.
        self.flying: OrderedDict[tuple[Address, bytes], _Flight] = OrderedDict()
        self.young: OrderedDict[tuple[Address, bytes], float] = OrderedDict()  # until when they are
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
        self.answers.unasked = {each for asks in self.todo.values() for each in asks}
        self.answers.unasked |= {flight.ask for flight in self.flying.values() if flight.tries == 1}

    # --- Out ---

    def _send_some(self) -> None:
        for _ in range(BURST):
            if not self.ready or self._is_full():
                return
            server = self.ready.popleft()
            asks = self.todo[server]
            if not asks:
                continue
            self._launch(asks.popleft())
            if asks and len(self.in_the_air[server]) < WINDOW_PER_SERVER:
                self.ready.append(server)

    def _is_full(self) -> bool:
        now = clock.monotonic()
        while self.young and next(iter(self.young.values())) <= now:
            self.young.popitem(last=False)
        return len(self.young) >= WINDOW

    def _launch(self, asked: Ask) -> None:
        ident = secrets.token_bytes(2)
        while ident in self.in_the_air[asked.server]:
            ident = secrets.token_bytes(2)
        try:
            question = _question(asked.name, asked.rdtype)
        except (dns.exception.DNSException, UnicodeError):  # no name that a message could hold
            return
        wire = ident + struct.pack("!HHHHH", asked.flags, 1, 0, 0, 1) + question + OPT
        if self._send(wire, asked.server):
            now = clock.monotonic()
            self.flying[asked.server, ident] = _Flight(asked, wire, question, 1, now + PATIENCE)
            self.young[asked.server, ident] = now + YOUNG
            self.in_the_air[asked.server].add(ident)

    def _send(self, wire: bytes, server: Address) -> bool:
        """False when no route leads there. What is lost for other reasons is sent again when its time is over."""
        channel = self._channel(socket.AF_INET6 if ":" in server[0] else socket.AF_INET)
        if channel is None:
            self._without_route(server)
            return False
        for _ in range(2):  # the first call may report an ICMP error about another server
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
        """This batch's socket for the family; None on a machine that has no such family."""
        if family not in self.channels:
            self.channels[family] = None
            with contextlib.suppress(OSError):
                channel = self.sockets.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                channel.setblocking(False)
                if (
                    HAS_ERROR_QUEUE
                ):  # a closed port is told at once instead of after every try's patience
                    channel.setsockopt(*RECVERR[family], 1)
                self.poll.register(channel, select.POLLIN)
                self.channels[family] = channel
        return self.channels[family]

    # --- In ---

    def _wait(self) -> None:
        """Until something comes, the oldest question's time is over, or the window has room for what is to be sent."""
        until = self.end
        if self.flying:
            until = min(until, next(iter(self.flying.values())).due)
        may_send = self.ready and not self._is_full()
        if self.ready and self.young:
            until = min(until, next(iter(self.young.values())))
        pause = 0.0 if may_send or not self.flying else max(0.0, until - clock.monotonic())
        self.poll.poll(pause * 1000 + (1 if pause else 0))

    def _read(self, channel: socket.socket) -> None:
        # The error queue first: while it is not empty, poll() returns at once, for ever.
        for server in _refusals(channel):
            self._give_up(server)
        for server, wire in _datagrams(channel):
            self._take(server, wire)

    def _take(self, server: Address, wire: bytes) -> None:
        """An answer, if it is one to what was asked: same server, same id, same question."""
        flight = self.flying.get((server, wire[:2]))
        if flight is None or not _is_answer(wire, flight.question):
            return
        message = _parsed(wire, flight.ask)
        truncated = bool(wire[2] & 0x02)
        if message is None and not truncated:
            return
        self._land(server, wire[:2])
        self.silent[server] = 0
        if message is not None:
            self.answers.got[flight.ask] = message
        if truncated or wire[3] & 0x0F in (
            dns.rcode.FORMERR,
            dns.rcode.NOTIMP,
        ):  # too big, or no EDNS there
            self.too_big.append(flight.ask)

    def _land(self, server: Address, ident: bytes) -> _Flight:
        flight = self.flying.pop((server, ident))
        self.young.pop((server, ident), None)
        self.in_the_air[server].remove(ident)
        if self.todo[server] and len(self.in_the_air[server]) == WINDOW_PER_SERVER - 1:
            self.ready.append(server)
        return flight

    def _expire(self) -> None:
        """Ask again what was not answered in time, the last time for good."""
        now = clock.monotonic()
        while self.flying:
            (server, ident), flight = next(iter(self.flying.items()))
            if flight.due > now:
                return
            self.silent[server] += 1
            is_deaf = self.silent[server] >= (DEAF_RESOLVER if flight.ask.recurse else DEAF)
            if is_deaf:
                self.todo[server].clear()
            if flight.tries < TRIES and not is_deaf and self._send(flight.wire, server):
                flight.tries, flight.due = flight.tries + 1, now + PATIENCE
                self.flying.move_to_end((server, ident))
            elif (server, ident) in self.flying:
                self._land(server, ident)

    def _without_route(self, server: Address) -> None:
        self.answers.no_route.add(server)
        self._give_up(server)

    def _give_up(self, server: Address) -> None:
        """Nobody listens there: what else this batch would ask is not asked."""
        self.todo[server].clear()
        for ident in self.in_the_air.pop(server, ()):
            del self.flying[server, ident]
            self.young.pop((server, ident), None)


def _refusals(channel: socket.socket) -> Iterator[Address]:
    """The servers that ICMP errors are about."""
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
        except OSError:  # the pending ICMP error itself; whom it is about is in the error queue
            continue
        yield _sender(server), wire


# --- Messages (RFC 1035, section 4) ---


@functools.lru_cache(maxsize=8192)
def _question(name: str, rdtype: dns.rdatatype.RdataType) -> bytes:
    return dns.name.from_text(name.lower()).to_wire() + struct.pack(
        "!HH", rdtype, dns.rdataclass.IN
    )  # type: ignore[operator]


def _is_answer(wire: bytes, question: bytes) -> bool:
    """A response (QR) to a plain query that repeats the question; some errors come without it."""
    if len(wire) < 12 or wire[2] & 0xF8 != 0x80:
        return False
    questions = wire[4:6]
    if questions == b"\0\1":
        return wire[12 : 12 + len(question)].lower() == question.lower()
    return questions == b"\0\0" and wire[3] & 0x0F in WITHOUT_QUESTION


def _parsed(wire: bytes, asked: Ask) -> dns.message.Message | None:
    # "Not there" is what most looks for a TXT record get, and its header says all of it: half of the work. A resolver
    # says besides for how long it will go on saying so.
    header_only = asked.rdtype == dns.rdatatype.TXT and not asked.recurse and wire[6:8] == b"\0\0"
    try:
        return dns.message.from_wire(
            wire, keyring=False, ignore_trailing=True, question_only=header_only
        )
    except (dns.exception.DNSException, ValueError):
        return None


# --- TCP ---


def _over_tcp(asks: Iterable[Ask], end: float) -> dict[Ask, dns.message.Message]:
    """What did not fit, a few connections to each server at a time; a server whose TCP fails is left alone."""
    lanes: defaultdict[tuple[Address, int], list[Ask]] = defaultdict(list)
    for number, each in enumerate(asks):
        lanes[each.server, number % LANES].append(each)
    if not lanes:
        return {}
    got: dict[Ask, dns.message.Message] = {}
    with ThreadPoolExecutor(min(TCP_THREADS, len(lanes)), "dns-tcp") as pool:
        for found in pool.map(functools.partial(_lane, end=end), lanes.values()):
            got.update(found)
    return got


def _lane(asks: list[Ask], end: float) -> dict[Ask, dns.message.Message]:
    got = {}
    for each in asks:
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
