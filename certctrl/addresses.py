"""Which addresses this server may call: public ones, and those that ALLOW_PRIVATE names.

Where a tenant named the host, and not the operator, ALLOW_PRIVATE_FOR_TENANTS must name such an address too.
`certctrl.outgoing` and the DNS look-ups resolve names here and connect to what was checked.
"""

import ipaddress
import re
import socket
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any
from urllib.parse import SplitResult, urlsplit

import requests
import structlog
from django.conf import settings

from certctrl import clock, outward

# Public to ipaddress: Azure's metadata; protocol assignments, Oracle's metadata among them; documentation (RFC 9637).
NOT_PUBLIC = tuple(map(ipaddress.ip_network, ("168.63.129.16/32", "192.0.0.0/24", "3fff::/20")))
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052
COMPATIBLE = ipaddress.ip_network("::/96")  # IPv4-compatible, RFC 4291, 2.5.5.1
HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+(%[a-z0-9._-]+)?", re.IGNORECASE)
WITH_PORT = re.compile(
    r"(?P<what>\[[^\]]+\]|[^:\[\]]+):(?P<port>[0-9]{1,5})"
)  # ca.corp.example:8443, [::1]:53

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
SockAddr = tuple[Any, ...]  # (address, port), with flow and scope for IPv6


log = structlog.get_logger()
_by_tenant: ContextVar[bool] = ContextVar("_by_tenant", default=False)


@contextmanager
def named_by_tenant(is_so: bool) -> Iterator[None]:
    """Inside, the hosts were named by somebody who does not run this server, or were not."""
    token = _by_tenant.set(is_so)
    try:
        yield
    finally:
        _by_tenant.reset(token)


def is_by_tenant() -> bool:
    return _by_tenant.get()


def allowances() -> tuple[tuple[str, ...], ...]:
    """The lists that must all name a private address, for whoever named the host."""
    for_tenants = (tuple(settings.ALLOW_PRIVATE_FOR_TENANTS),) if is_by_tenant() else ()
    return tuple(settings.ALLOW_PRIVATE), *for_tenants


class AddressRefused(requests.ConnectionError):
    """The name stands for an address that this server must not call unless ALLOW_PRIVATE names it."""


class NameUnknown(requests.ConnectionError):
    """The name has no address."""


class DeadlineExceeded(requests.Timeout):
    """The call was not over when the time that it may take was."""


@lru_cache(maxsize=8)
def _allowance(entries: tuple[str, ...]) -> tuple[bool, frozenset[str], tuple[Network, ...]]:
    """ALLOW_PRIVATE as (everything, hosts, networks)."""
    everything, hosts, networks = False, set(), []
    for entry in (each.strip().lower().strip("[]") for each in entries):
        try:
            networks.append(ipaddress.ip_network(entry, strict=False))
        except ValueError:
            everything |= entry == "true"
            hosts.add(entry.rstrip("."))
    return everything, frozenset(hosts - {"", "true", "false"}), tuple(networks)


@lru_cache(maxsize=64)
def _entries_for(entries: tuple[str, ...], port: int) -> tuple[str, ...]:
    """The entries of ALLOW_PRIVATE that count for a port: those that name none, and those that name this one."""
    found = []
    for entry in entries:
        named = WITH_PORT.fullmatch(entry.strip())
        if not named or int(named["port"]) == port:
            found.append(named["what"] if named else entry)
    return tuple(found)


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one leads to (mapped, NAT64, 6to4, compatible), or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and (address in NAT64 or (address in COMPATIBLE and int(address) > 1)):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return inner or address


@lru_cache(maxsize=4096)
def _is_public(address: Address) -> bool:
    real = _embedded(address)
    if (
        any(real in network for network in NOT_PUBLIC)
        or real.is_multicast
        or real.is_reserved
        or not real.is_global
    ):
        return False
    return isinstance(real, ipaddress.IPv4Address) or not real.is_site_local


def is_allowed(host: str, ip: str, port: int) -> bool:
    """Whether this server may connect to `ip` under the name `host`: a public address, or one that is allowed."""
    address = ipaddress.ip_address(ip.partition("%")[0])
    real = (address, _embedded(address))
    return _is_public(address) or all(_lists(entries, host, real, port) for entries in allowances())


def is_named(host: str, port: int) -> bool:
    """Whether ALLOW_PRIVATE names this host, or the address that it spells, for the port."""
    spelled = literal(host)
    addresses = (ipaddress.ip_address(spelled),) if spelled else ()
    return all(_lists(entries, host, addresses, port) for entries in allowances())


def _lists(entries: tuple[str, ...], host: str, addresses: Iterable[Address], port: int) -> bool:
    everything, hosts, networks = _allowance(_entries_for(entries, port))
    if everything or host.strip("[]").rstrip(".").lower() in hosts:
        return True
    return any(each in network for each in addresses for network in networks)


def called(url: str) -> SplitResult | None:
    """The parts of an address that can be called: a host of the usual letters (or of others, which become those), no
    user, no fragment, no white space. None for others."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        named = (HOST.fullmatch(host) or not host.isascii()) and (
            parts.port is None or parts.port > 0
        )
    except ValueError:
        return None
    if (
        not named
        or parts.username
        or parts.password
        or parts.fragment
        or any(char.isspace() for char in url)
    ):
        return None
    return parts


@lru_cache(maxsize=256)
def canonical_url(url: str) -> str:
    """One spelling of an address that can be called: scheme and host in lower case, without the usual port (RFC 3986,
    6.2.2.1 and 6.2.3). Others as they are."""
    parts = called(url)
    if not parts or not parts.hostname:
        return url
    usual = {"https": 443, "http": 80}.get(parts.scheme)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname.rstrip(".")
    port = f":{parts.port}" if parts.port and parts.port != usual else ""
    return parts._replace(netloc=host + port).geturl()


def check_address(ip: str, host: str, port: int) -> None:
    """Raises AddressRefused unless this server may connect to `ip` under the name `host`."""
    if not is_allowed(host, ip, port):
        log.info("address.refused", host=host, ip=ip, port=port)
        raise _refused(host)


def _refused(host: str) -> AddressRefused:
    """The same words for every address that is not public: what a name stands for in here is nobody's to read."""
    setting = "ALLOW_PRIVATE and ALLOW_PRIVATE_FOR_TENANTS" if is_by_tenant() else "ALLOW_PRIVATE"
    what = f"{host} is not a public address. This server calls it only if its operator names it in {setting}."
    return AddressRefused(what)


def literal(host: str) -> str | None:
    """The address that a host spells, in any form that a resolver takes (2130706433, 0x7f.1, ::1%lo), or None."""
    plain = host.strip("[]").rstrip(".").partition("%")[0].lower()
    if plain == "localhost" or plain.endswith(".localhost"):  # RFC 6761, 6.3
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(plain))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(plain))
    except OSError:
        return None


def resolve(host: str, port: int) -> list[SockAddr]:
    """Socket addresses of a name, asked once and all of them checked, within `clock.time_left()`.

    One address that is refused refuses the name: a mixed answer is how a name is rebound. Raises AddressRefused,
    NameUnknown or DeadlineExceeded.
    """
    try:
        addresses = look_up(host, port)
    except NameUnknown as unknown:
        if not is_by_tenant():
            raise
        log.info("address.unknown", host=host, why=str(unknown))
        raise _refused(host) from None  # or names that exist in here only could be told apart
    for address in addresses:
        check_address(str(address[0]), host, port)
    return addresses


def look_up(host: str, port: int) -> list[SockAddr]:
    """The same without the guard: for a proxy, which the operator named."""
    outward.let_go()
    future: Future[Any] = Future()

    def ask() -> None:
        try:
            future.set_result(socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM))
        except Exception as exc:
            future.set_exception(exc)

    if literal(host):
        ask()
    else:
        # The system's resolver knows no deadline: left alone on a thread, it ends by its own time-outs.
        threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        found = future.result(clock.time_left())
    except TimeoutError:
        raise DeadlineExceeded(
            f"The name {host} was not resolved in the time that was left."
        ) from None
    except (OSError, UnicodeError) as exc:
        why = exc.strerror if isinstance(exc, socket.gaierror) else "it is no host name"
        raise NameUnknown(f"The name {host} does not resolve: {why}.") from None
    return list(dict.fromkeys(each[4] for each in found))
