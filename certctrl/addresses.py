"""Which addresses this server may call: public ones, and those that ALLOW_PRIVATE names.

When a tenant named the host, ALLOW_PRIVATE_FOR_TENANTS must name a private address too.
`certctrl.outgoing` and the DNS look-ups resolve names here. They connect to the checked addresses.
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
from certctrl.sentences import sentence as _

# The module ipaddress calls these public. They are the metadata service of Azure, the protocol
# assignments (with the metadata service of Oracle), and documentation (RFC 9637).
NOT_PUBLIC = tuple(map(ipaddress.ip_network, ("168.63.129.16/32", "192.0.0.0/24", "3fff::/20")))
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052
COMPATIBLE = ipaddress.ip_network("::/96")  # IPv4-compatible, RFC 4291, 2.5.5.1
HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+(%[a-z0-9._-]+)?", re.IGNORECASE)
# For example ca.corp.example:8443 or [::1]:53.
WITH_PORT = re.compile(r"(?P<what>\[[^\]]+\]|[^:\[\]]+):(?P<port>[0-9]{1,5})")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
SockAddr = tuple[Any, ...]  # (address, port); IPv6 adds flow info and scope id


log = structlog.get_logger()
_by_tenant: ContextVar[bool] = ContextVar("_by_tenant", default=False)


@contextmanager
def named_by_tenant(is_so: bool) -> Iterator[None]:
    """Set whether a tenant named the hosts that the body calls.

    A tenant is a person who does not run this server.
    """
    token = _by_tenant.set(is_so)
    try:
        yield
    finally:
        _by_tenant.reset(token)


def is_by_tenant() -> bool:
    return _by_tenant.get()


def allowances() -> tuple[tuple[str, ...], ...]:
    """Return the lists that apply here. Each of them must name a private address."""
    for_tenants = (tuple(settings.ALLOW_PRIVATE_FOR_TENANTS),) if is_by_tenant() else ()
    return tuple(settings.ALLOW_PRIVATE), *for_tenants


class AddressRefused(requests.ConnectionError):
    """The name has an address that is neither public nor in ALLOW_PRIVATE."""


class NameUnknown(requests.ConnectionError):
    """The name has no address."""


class DeadlineExceeded(requests.Timeout):
    """The call did not end in the time that it had."""


@lru_cache(maxsize=8)
def _allowance(entries: tuple[str, ...]) -> tuple[bool, frozenset[str], tuple[Network, ...]]:
    """Return ALLOW_PRIVATE as (everything, hosts, networks)."""
    everything = False
    hosts = set()
    networks = []
    for entry in (each.strip().lower().strip("[]") for each in entries):
        try:
            networks.append(ipaddress.ip_network(entry, strict=False))
        except ValueError:
            everything |= entry == "true"
            hosts.add(entry.rstrip("."))
    return everything, frozenset(hosts - {"", "true", "false"}), tuple(networks)


@lru_cache(maxsize=64)
def _entries_for(entries: tuple[str, ...], port: int) -> tuple[str, ...]:
    """Return the entries of ALLOW_PRIVATE that apply to a port.

    They are the entries without a port, and those with this port.
    """
    found = []
    for entry in entries:
        named = WITH_PORT.fullmatch(entry.strip())
        if not named or int(named["port"]) == port:
            found.append(named["what"] if named else entry)
    return tuple(found)


def _embedded(address: Address) -> Address:
    """Return the IPv4 address inside an IPv6 address, or the address itself.

    The forms are mapped, NAT64, 6to4 and compatible.
    """
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
    """Return whether this server may connect to `ip` under the name `host`.

    The address must be public or allowed.
    """
    address = ipaddress.ip_address(ip.partition("%")[0])
    real = (address, _embedded(address))
    return _is_public(address) or all(_lists(entries, host, real, port) for entries in allowances())


def is_named(host: str, port: int) -> bool:
    """Return whether ALLOW_PRIVATE names, for this port, the host or the address that it spells."""
    spelled = literal(host)
    addresses = (ipaddress.ip_address(spelled),) if spelled else ()
    return all(_lists(entries, host, addresses, port) for entries in allowances())


def _lists(entries: tuple[str, ...], host: str, addresses: Iterable[Address], port: int) -> bool:
    everything, hosts, networks = _allowance(_entries_for(entries, port))
    if everything or host.strip("[]").rstrip(".").lower() in hosts:
        return True
    return any(each in network for each in addresses for network in networks)


def called(url: str) -> SplitResult | None:
    """Return the parts of a URL that can be called, or None for other text.

    Such a URL has a valid host, no user, no fragment and no white space. A host in other letters is
    accepted, because it is encoded later.
    """
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
    """Return the canonical form of a URL that can be called, and other text unchanged.

    Scheme and host are in lower case. The default port is left out (RFC 3986, sections 6.2.2.1 and
    6.2.3).
    """
    parts = called(url)
    if not parts or not parts.hostname:
        return url
    usual = {"https": 443, "http": 80}.get(parts.scheme)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname.rstrip(".")
    port = f":{parts.port}" if parts.port and parts.port != usual else ""
    return parts._replace(netloc=host + port).geturl()


def check_address(ip: str, host: str, port: int) -> None:
    """Raise AddressRefused unless this server may connect to `ip` under the name `host`."""
    if not is_allowed(host, ip, port):
        log.info("address.refused", host=host, ip=ip, port=port)
        raise _refused(host)


def _refused(host: str) -> AddressRefused:
    """Return the same error for every address that is not public.

    Nobody may learn the private address of a name from the error.
    """
    setting = (
        _("ALLOW_PRIVATE and ALLOW_PRIVATE_FOR_TENANTS") if is_by_tenant() else "ALLOW_PRIVATE"
    )
    what = _(
        "%(host)s is not a public address. This server calls it only if its operator "
        "names it in %(setting)s.",
        host=host,
        setting=setting,
    )
    return AddressRefused(what)


def literal(host: str) -> str | None:
    """Return the address that a host spells, or None.

    Every form that a resolver accepts is read, for example 2130706433, 0x7f.1 and ::1%lo.
    """
    plain = host.strip("[]").rstrip(".").partition("%")[0].lower()
    if plain == "localhost" or plain.endswith(".localhost"):  # RFC 6761, section 6.3
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
    """Return the checked socket addresses of a name, within `clock.time_left()`.

    The name is resolved once. One refused address refuses the whole name, because DNS rebinding
    uses mixed answers. Raise AddressRefused, NameUnknown or DeadlineExceeded.
    """
    try:
        addresses = lookup(host, port)
    except NameUnknown as unknown:
        if not is_by_tenant():
            raise
        log.info("address.unknown", host=host, why=str(unknown))
        # The same error hides which names exist only in the private network.
        raise _refused(host) from None
    for address in addresses:
        check_address(str(address[0]), host, port)
    return addresses


def lookup(host: str, port: int) -> list[SockAddr]:
    """Return the socket addresses of a name without a check.

    Use this only for a proxy, because the operator named it. Raise NameUnknown or DeadlineExceeded.
    """
    outward.let_go()
    future: Future[Any] = Future()

    def find() -> None:
        try:
            future.set_result(socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM))
        except Exception as exc:
            future.set_exception(exc)

    if literal(host):
        find()
    else:
        # The system's resolver has no deadline. Its thread is left alone and ends by its own
        # time-outs.
        threading.Thread(target=find, name="resolve", daemon=True).start()
    try:
        found = future.result(clock.time_left())
    except TimeoutError:
        raise DeadlineExceeded(
            _(
                "The name %(host)s did not resolve in time. Check the DNS resolver of this server.",
                host=host,
            )
        ) from None
    except (OSError, UnicodeError) as exc:
        why = exc.strerror if isinstance(exc, socket.gaierror) else _("it is not a host name")
        raise NameUnknown(
            _("The name %(host)s does not resolve (%(why)s). Check the name.", host=host, why=why)
        ) from None
    return list(dict.fromkeys(each[4] for each in found))
