"""The record of what was done."""

import ipaddress
from typing import Any

from accounts.models import AuditEvent, User

LONGEST = 254  # characters of the columns for actor and object


def record(owner: User, actor: str, action: str, object: str, ip: str | None = None, **detail: Any) -> AuditEvent:
    """Write down that `actor` (an e-mail address, a key's name, a process) did `action` ("key.exported") to `object`.

    `owner` is whose object it is; `detail` is JSON without secrets. Call it in the transaction that it tells of.
    """
    fields = {"action": action, "object": object[:LONGEST], "ip": ip or None, "detail": detail}
    return AuditEvent.objects.create(owner=owner, actor=actor[:LONGEST], **fields)


def actor_of(request: Any) -> str:
    """Who a request of the API comes from: the user, and the key where it came with one, which is never cut off."""
    key = f" with {request.auth}" if request.auth else ""
    return f"{request.user.email[: LONGEST - len(key)]}{key}"


def ip_of(request: Any) -> str | None:
    """The address that the request came from, None where nobody knows it.

    uvicorn has already believed the proxies it trusts, and some hand on whatever a client said of itself.
    """
    host, bracket, _ = request.META.get("REMOTE_ADDR", "").strip().removeprefix("[").partition("]")
    if not bracket and host.count(":") == 1:  # IPv4 with a port
        host = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)  # a socket for both families spells IPv4 as ::ffff:192.0.2.1


def network_of(ip: str) -> str:
    """What counts as one address: an IPv4 address, and the /64 that an IPv6 host chooses its addresses from."""
    return str(ipaddress.ip_network(f"{ip}/64" if ":" in ip else ip, strict=False))
