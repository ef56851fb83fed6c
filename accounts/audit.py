"""The record of what was done."""

import ipaddress
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from django.http import HttpRequest, HttpResponse

from accounts.models import AuditEvent, User

LONGEST = 254  # characters of the columns for actor and object
PROCESS = "certctrl"  # the actor where no request asked for it

_asking: ContextVar[HttpRequest | None] = ContextVar("_asking", default=None)


class Asking:
    """Middleware: remembers the request, so that `note` can say who asked, and from where."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        token = _asking.set(request)
        try:
            return self.get_response(request)
        finally:
            _asking.reset(token)


def note(owner: User, action: str, object: str, **detail: Any) -> AuditEvent:
    """`record` for what the request in progress does: its user, its API key and its address are the actor's."""
    request = _asking.get()
    if request is None:
        return record(owner, PROCESS, action, object, **detail)
    return record(owner, actor_of(request), action, object, ip_of(request), **detail)


def record(
    owner: User, actor: str, action: str, object: str, ip: str | None = None, **detail: Any
) -> AuditEvent:
    """Write down that `actor` (an e-mail address, a key's name, a process) did `action` ("key.exported") to `object`.

    `owner` is whose object it is; `detail` is JSON without secrets. Call it in the transaction that it tells of.
    """
    fields = {"action": action, "object": object[:LONGEST], "ip": ip or None, "detail": detail}
    return AuditEvent.objects.create(owner=owner, actor=actor[:LONGEST], **fields)


def actor_of(request: Any) -> str:
    """Who a request comes from: the user, and the API key where it came with one, which is never cut off."""
    auth = getattr(request, "auth", None)
    key = f" with {auth}" if auth else ""
    email = getattr(request.user, "email", "somebody")
    return f"{email[: LONGEST - len(key)]}{key}"


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
