"""The lab's name server. It is authoritative for a few zones and accepts signed updates.

Updates follow RFC 2136, with TSIG of RFC 8945.

    python -m lab.nameserver --listen 127.0.0.1:PORT --zone lab.test --tsig-file FILE [--state FILE]

FILE has a key in the format of BIND's tsig-keygen. Without `--tsig-file`, LAB_TSIG in the
environment may hold `name:hmac-sha256:base64`.

The server answers for its zones, and refuses all other names. So its one address can be in
DNS_RESOLVERS, and can be the resolver of the lab's CA. It imports no code of the server.

Tests start `NameServer` in their own process, on any address of 127.0.0.0/8 and on ::1. They make a
single address misbehave with `server.at("127.0.0.2").silent = True`, and with the other fields of
`Behaviour`.
"""

import argparse
import json
import os
import re
import signal
import socket
import socketserver
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.renderer
import dns.rrset
import dns.tsig
import dns.update

from lab import zones as zone_files
from lab.sockets import Send, TCPServer, UDPServer, family_of
from lab.zones import Zones

PAYLOAD = 1232  # bytes over UDP, the value of DNS flag day 2020
TSIG_FILE = re.compile(
    r'key\s+"?([^"\s{]+)"?\s*\{\s*algorithm\s+"?([\w-]+)"?\s*;\s*secret\s+"?([\w+/=]+)"?\s*;\s*\}',
    re.S,
)
BAD_TSIG = {
    dns.message.UnknownTSIGKey: dns.rcode.BADKEY,
    dns.tsig.BadKey: dns.rcode.BADKEY,
    dns.tsig.BadAlgorithm: dns.rcode.BADKEY,
    dns.tsig.BadSignature: dns.rcode.BADSIG,
    dns.tsig.BadTime: dns.rcode.BADTIME,
}


@dataclass
class Behaviour:
    """How one address misbehaves. The default is no misbehaviour."""

    delay: float = 0.0  # seconds
    silent: bool = False
    refuses: bool = False
    fails: bool = False  # responds with SERVFAIL
    truncates: bool = False  # truncates every response over UDP
    without_aa: bool = False
    without_tcp: bool = False
    without_edns: bool = False  # FORMERR for questions with EDNS
    wrong_id_first: bool = False  # sends a forged response before the right one
    drops_every: int = 0  # drops every nth question over UDP
    hides_txt: int = 0  # hides TXT records for this number of questions; -1 hides them always
    # SERVFAIL at and below these names, like a resolver that cannot reach their servers.
    dead: frozenset[str] = frozenset()
    # SERVFAIL at and below these names, except with checking disabled, like a resolver that
    # validates.
    bogus: frozenset[str] = frozenset()
    cached: frozenset[str] = frozenset()  # names that it answers in spite of `dead` and `bogus`
    # Responds without SOA records, like a small router, or one of several views.
    without_soa: bool = False
    lags: int = 0  # how far its SOA serial is behind
    asked: int = 0

    def servfails(self, query: dns.message.Message) -> bool:
        if any(query.question[0].name == dns.name.from_text(name) for name in self.cached):
            return self.fails
        places = self.dead if query.flags & dns.flags.CD else self.dead | self.bogus
        return self.fails or any(
            query.question[0].name.is_subdomain(dns.name.from_text(place)) for place in places
        )


@dataclass
class NameServer:
    """The server. `zones` is {origin: lines of its zone file}. `keys` may update all zones."""

    zones: Mapping[str, str]
    keys: Iterable[dns.tsig.Key] = ()
    addresses: Iterable[str] = ("127.0.0.1",)
    port: int = 0  # 0 selects a port that is free on every address, for UDP and TCP
    state: Path | None = None
    seen: deque[tuple[str, str, str]] = field(default_factory=lambda: deque(maxlen=100_000))

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._keyring = {key.name: key for key in self.keys}
        self._behaviours = {address: Behaviour() for address in self.addresses}
        self._servers: list[socketserver.BaseServer] = []
        given = {origin.rstrip(".") + ".": text for origin, text in self.zones.items()}
        try:
            self._zones = Zones(given | self._kept())
        except (
            ValueError,
            TypeError,
            AttributeError,
            dns.exception.DNSException,
        ):
            # Not JSON, or no zones.
            assert self.state
            aside = self.state.with_suffix(".damaged")
            self.state.replace(aside)
            print(
                f"The zones cannot be read. The file is {aside} now, and the server starts "
                "with new zones.",
                file=sys.stderr,
            )
            self._zones = Zones(given)

    def _kept(self) -> dict[str, str]:
        """Return the zones as an earlier run left them."""
        return (
            dict(json.loads(self.state.read_text())) if self.state and self.state.exists() else {}
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen on all addresses, and set `port`. Raise OSError when an address is taken."""
        self._servers = self._listen()
        for server in self._servers:
            threading.Thread(
                target=server.serve_forever, args=(0.05,), name="nameserver", daemon=True
            ).start()

    def stop(self) -> None:
        # Each shutdown waits for the loop of its server.
        ends = [threading.Thread(target=server.shutdown) for server in self._servers]
        for end in ends:
            end.start()
        for end in ends:
            end.join()
        for server in self._servers:
            server.server_close()
        self._servers = []

    def at(self, address: str) -> Behaviour:
        """Return the behaviour of one address."""
        return self._behaviours[address]

    def add(self, name: str, rdtype: str, *values: str, ttl: int = 60) -> None:
        """Add records to the zone of the name, as an update would."""
        self._update(
            name, lambda update: update.add(dns.name.from_text(name), ttl, rdtype, *values)
        )

    def remove(self, name: str, rdtype: str, *values: str) -> None:
        self._update(name, lambda update: update.delete(dns.name.from_text(name), rdtype, *values))

    def txt(self) -> list[tuple[str, str]]:
        """Return every TXT value of every zone, with its name."""
        with self._lock:
            texts = self._zones.texts()
        zones = [zone_files.load(origin, text) for origin, text in texts.items()]
        found = [each for zone in zones for each in zone.iterate_rdatas(dns.rdatatype.TXT)]
        return sorted((name.to_text(True), text_of(rdata)) for name, _, rdata in found)

    def _update(self, name: str, fill: Callable[[dns.update.UpdateMessage], None]) -> None:
        with self._lock:
            zone = self._zones.holding(dns.name.from_text(name))
            if zone is None:
                raise LookupError(f"no zone for {name}")
            update = dns.update.UpdateMessage(zone_files.origin_of(zone))
            fill(update)
            arrived = dns.message.from_wire(update.to_wire())  # parsed again, to get absolute names
            assert isinstance(arrived, dns.update.UpdateMessage)
            zone_files.apply(zone, arrived)

    # --- Listening ---

    def _listen(self) -> list[socketserver.BaseServer]:
        for attempt in range(20):
            port = self.port or free_port(next(iter(self._behaviours)))
            try:
                servers = self._bind(port)
            except OSError:
                if self.port or attempt == 19:
                    raise
                continue
            self.port = port
            return servers
        raise AssertionError("not reached")

    def _bind(self, port: int) -> list[socketserver.BaseServer]:
        servers: list[socketserver.BaseServer] = []
        try:
            for address in self._behaviours:
                for kind in (UDPServer, TCPServer):
                    servers.append(kind((address, port), self))
        except OSError:
            for server in servers:
                server.server_close()
            raise
        return servers

    # --- Responses ---

    def serve(self, address: str, wire: bytes, send: Send, udp: bool) -> None:
        """Respond to one message through `send`, perhaps later."""
        manners = self._behaviours[address]
        with self._lock:
            manners.asked += udp
            dropped = udp and manners.drops_every and manners.asked % manners.drops_every == 0
        if manners.silent or dropped or (manners.without_tcp and not udp):
            return
        answer = self._answer(address, wire, udp)
        if answer is None:
            return
        if manners.wrong_id_first:
            send(struct.pack("!H", (answer[0] << 8 | answer[1]) ^ 1) + answer[2:])
        if manners.delay and udp:
            threading.Timer(manners.delay, send, (answer,)).start()
        else:
            send(answer)

    def _answer(self, address: str, wire: bytes, udp: bool) -> bytes | None:
        """Return the bytes of the response, or None when the message gets no response."""
        try:
            message = dns.message.from_wire(wire, keyring=self._keyring or False)
        except tuple(BAD_TSIG) as exc:
            return self._not_signed_well(wire, BAD_TSIG[type(exc)])
        except Exception:
            # dnspython raises ValueError for some messages. The server must survive every message.
            return _formerr(wire)
        if message.flags & dns.flags.QR:
            return None
        response = dns.message.make_response(message, our_payload=PAYLOAD)
        if isinstance(message, dns.update.UpdateMessage):
            response.set_rcode(self._updated(message))
        else:
            self._answer_query(address, message, response, udp)
        if not udp:
            return response.to_wire(max_size=65535)
        return response.to_wire(
            max_size=min(message.payload, PAYLOAD) if message.edns >= 0 else 512,
            prefer_truncation=True,
        )

    def _answer_query(
        self, address: str, query: dns.message.Message, response: dns.message.Message, udp: bool
    ) -> None:
        manners = self._behaviours[address]
        if query.opcode() != dns.opcode.QUERY:
            response.set_rcode(dns.rcode.NOTIMP)
        elif len(query.question) != 1 or (manners.without_edns and query.edns >= 0):
            response.use_edns(False)
            response.set_rcode(dns.rcode.FORMERR)
        elif manners.refuses or manners.servfails(query):
            response.set_rcode(dns.rcode.REFUSED if manners.refuses else dns.rcode.SERVFAIL)
        elif query.edns > 0:
            response.set_rcode(dns.rcode.BADVERS)
        else:
            self._fill(address, query, response)
            if udp and manners.truncates:
                response.flags |= dns.flags.TC
                response.answer = []
                response.authority = []
                response.additional = []

    def _fill(
        self, address: str, query: dns.message.Message, response: dns.message.Message
    ) -> None:
        question = query.question[0]
        manners = self._behaviours[address]
        with self._lock:
            self.seen.append(
                (
                    address,
                    question.name.to_text(True).lower(),
                    dns.rdatatype.to_text(question.rdtype),
                )
            )
            found = self._zones.find(question.name, question.rdtype)
            if question.rdtype == dns.rdatatype.TXT and manners.hides_txt:
                manners.hides_txt -= manners.hides_txt > 0
                found.answer = []
        if manners.without_soa:
            found.answer = [each for each in found.answer if each.rdtype != dns.rdatatype.SOA]
            found.authority = [each for each in found.authority if each.rdtype != dns.rdatatype.SOA]
        if manners.lags:
            found.answer = [behind(each, manners.lags) for each in found.answer]
        response.set_rcode(found.rcode)
        response.answer = found.answer
        response.authority = found.authority
        response.additional = found.additional
        if found.authoritative and not manners.without_aa:
            response.flags |= dns.flags.AA

    def _updated(self, update: dns.update.UpdateMessage) -> dns.rcode.Rcode:
        """Apply an update that is signed with a known key, and return the response code."""
        if not update.had_tsig or not self._keyring:
            return dns.rcode.REFUSED
        if len(update.zone) != 1:
            return dns.rcode.FORMERR
        with self._lock:
            zone = self._zones.exactly(update.zone[0].name)
            if zone is None:
                return dns.rcode.NOTAUTH
            rcode = zone_files.apply(zone, update)
            if self.state and rcode == dns.rcode.NOERROR:
                part = self.state.with_suffix(".part")
                part.write_text(json.dumps(self._zones.texts()))
                part.replace(self.state)
            return rcode

    def _not_signed_well(self, wire: bytes, error: dns.rcode.Rcode) -> bytes | None:
        """Return NOTAUTH with the error in an unsigned TSIG record (RFC 8945, section 5.2).

        BADTIME is signed.
        """
        message = dns.message.from_wire(wire, keyring=False)
        response = dns.message.make_response(message, our_payload=PAYLOAD)
        response.set_rcode(dns.rcode.NOTAUTH)
        asked = message.tsig
        if asked is None or message.keyname is None:
            return None
        if error == dns.rcode.BADTIME:
            response.use_tsig(self._keyring[message.keyname], tsig_error=error)
            response.request_mac = asked[0].mac
        else:
            rdata = (asked[0].algorithm, asked[0].time_signed, 300, b"", message.id, error, b"")
            response.tsig = dns.renderer._make_tsig(message.keyname, *rdata)  # type: ignore[no-untyped-call]
            response.want_tsig_sign = False
        return response.to_wire()


def _formerr(wire: bytes) -> bytes | None:
    """Return only the header, with FORMERR, for a question that cannot be parsed."""
    if len(wire) < 12 or wire[2] & 0x80:
        return None
    return wire[:2] + bytes([wire[2] & 0x78 | 0x80, dns.rcode.FORMERR]) + bytes(8)


def behind(rrset: dns.rrset.RRset, serials: int) -> dns.rrset.RRset:
    """Return an SOA record with a serial that is `serials` behind, and other records unchanged."""
    if rrset.rdtype != dns.rdatatype.SOA:
        return rrset
    older = rrset[0].replace(serial=(rrset[0].serial - serials) & 0xFFFFFFFF)
    return dns.rrset.from_rdata_list(rrset.name, rrset.ttl, [older])


def text_of(rdata: Any) -> str:
    return b"".join(rdata.strings).decode()


def free_port(address: str) -> int:
    with socket.socket(family_of(address), socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


# --- The command ---


def key_of(text: str) -> dns.tsig.Key:
    """Return the key in a text. Raise ValueError for another text.

    The text is `key "name" { algorithm …; secret …; };` or `name:algorithm:base64`.
    """
    found = TSIG_FILE.search(text)
    parts = found.groups() if found else tuple(text.strip().split(":"))
    if len(parts) != 3:
        raise ValueError(
            'The TSIG key must have the form `key "name" { algorithm …; secret …; };` or '
            "`name:algorithm:base64`."
        )
    name, algorithm, secret = parts
    if dns.name.from_text(algorithm) not in dns.tsig.mac_sizes:
        raise ValueError(f"The TSIG algorithm {algorithm} is unknown. Use hmac-sha256.")
    return dns.tsig.Key(name, secret, algorithm)


def place_of(text: str) -> tuple[str, int]:
    """Return (host, port) of `127.0.0.1:5353` or `[::1]:5353`."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lab.nameserver", description="The lab's name server."
    )
    parser.add_argument(
        "--listen", action="append", required=True, type=place_of, metavar="ADDRESS:PORT"
    )
    parser.add_argument("--zone", action="append", required=True, metavar="NAME")
    parser.add_argument(
        "--tsig-file",
        type=Path,
        help="the TSIG key that may update; without it, LAB_TSIG in the environment",
    )
    parser.add_argument("--state", type=Path, help="file that keeps the zones over a restart")
    options = parser.parse_args(arguments)
    if len({port for _, port in options.listen}) > 1:
        parser.error("all --listen must have the same port")
    text = options.tsig_file.read_text() if options.tsig_file else os.environ.get("LAB_TSIG", "")
    try:
        keys = [key_of(text)] if text else []
    except ValueError as exc:
        parser.error(str(exc))
    addresses = [address for address, _ in options.listen]
    zones = {zone: zone_files.apex(addresses) for zone in options.zone}
    return _run(NameServer(zones, keys, addresses, options.listen[0][1], options.state))


def _run(server: NameServer) -> int:
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    try:
        server.start()
    except OSError as exc:
        print(
            f"The name server cannot listen on port {server.port} ({exc.strerror}). Choose "
            "another port.",
            file=sys.stderr,
        )
        return 1
    print(
        f"The name server of {', '.join(server.zones)} listens on port {server.port}.", flush=True
    )
    stopped.wait()
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
