"""A small internet on loopback, all on one port.

The resolver is at 127.0.0.1. The name servers have other loopback addresses.
"""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest

from certctrl import clock
from dnsclient import queries, resolver
from dnsproviders.models import DnsCredential, TxtRecord
from lab.nameserver import Behaviour, NameServer
from lab.zones import apex
from tests.patience import LIMIT

RESOLVER = "127.0.0.1"
NS1 = "127.0.0.2"
NS2 = "127.0.0.3"
NS3 = "127.0.0.4"
NS6 = "::1"
NOBODY = "127.0.0.99"  # no server listens there
CHALLENGE = "_acme-challenge.example.com"
MAKES_WAIT = {"silent", "delay", "without_tcp", "drops_every"}
VALUE = "value-value-value-value-value-value-value-0"


def zone(**servers: str | list[str]) -> str:
    """Return the text of a zone. `servers` are the names and addresses of its name servers."""
    lines = ["@ 60 SOA ns1 hostmaster 1 3600 600 86400 5", "@ 60 A 192.0.2.80"]
    for name, addresses in servers.items():
        lines.append(f"@ 60 NS {name}")
        for address in [addresses] if isinstance(addresses, str) else addresses:
            lines.append(f"{name} 60 {'AAAA' if ':' in address else 'A'} {address}")
    return "\n".join(lines) + "\n"


@contextmanager
def internet(
    settings: Any, zones: Mapping[str, str], patience: float = 0.3
) -> Iterator[NameServer]:
    """Run the name servers, and send all DNS questions of certctrl to them.

    `patience` is the time in seconds for an answer once a server drops or delays questions. It
    is shorter than in production. Before, each answer is waited for, however busy the machine is.
    """

    def set_manner(manners: Behaviour, name: str, value: Any) -> None:
        object.__setattr__(manners, name, value)
        if name in MAKES_WAIT and value:
            monkeypatch.setattr(queries, "PATIENCE", patience)

    try:
        with (
            pytest.MonkeyPatch.context() as monkeypatch,
            NameServer(zones, addresses=[RESOLVER, NS1, NS2, NS3, NS6]) as server,
        ):
            settings.DNS_RESOLVERS = [RESOLVER]
            settings.DNS_PORT = server.port
            settings.ALLOW_PRIVATE = ["127.0.0.0/8", "::1"]
            monkeypatch.setattr(queries, "PATIENCE", LIMIT)
            monkeypatch.setattr(Behaviour, "__setattr__", set_manner)
            resolver.forget()
            yield server
    finally:
        resolver.forget()


@contextmanager
def silence() -> Iterator["Silence"]:
    """Open a UDP port at every IPv4 address that never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        sock.setblocking(False)
        yield Silence(sock)


class Silence:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.port = int(sock.getsockname()[1])

    def heard(self) -> int:
        """Return the number of questions since the last call."""
        count = 0
        with suppress(BlockingIOError):
            while self.sock.recv(512):
                count += 1
        return count


def record(
    name: str = CHALLENGE,
    value: str = VALUE,
    *,
    pk: int = 1,
    check: str = "authoritative",
    age: float = 0,
    owner: int = 1,
) -> TxtRecord:
    """Return an unsaved TXT record whose `intent_at` is `age` seconds ago."""
    credential = DnsCredential(name="mine", propagation_check=check, owner_id=owner)
    intent_at = clock.now() - timedelta(seconds=age)
    return TxtRecord(pk=pk, credential=credential, name=name, value=value, intent_at=intent_at)


__all__ = ["apex", "internet", "record", "zone"]
