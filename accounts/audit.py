"""The audit log. Each event has an actor, an action and an object."""

import ipaddress
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Protocol

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from accounts.models import AuditEvent, User
from certctrl.statements import insert

LONGEST = 254  # characters of the columns for actor and object
PROCESS = "certctrl"  # the actor when the action does not come from a request

_current: ContextVar[HttpRequest | None] = ContextVar("_current", default=None)


class Owned(Protocol):
    """A row that has an owner."""

    @property
    def pk(self) -> Any: ...

    @property
    def owner(self) -> Any: ...


class CurrentRequest:
    """Middleware that remembers the request. `note` reads the actor and the IP address from it."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        token = _current.set(request)
        try:
            return self.get_response(request)
        finally:
            _current.reset(token)


def note(owner: User, action: str, object: str, **detail: Any) -> AuditEvent:
    """Write an audit event for the request in progress.

    The request gives the user, the API key and the IP address of the actor. Outside a request the
    actor is `PROCESS`.
    """
    request = _current.get()
    if request is None:
        return record(owner, PROCESS, action, object, **detail)
    return record(owner, actor_of(request), action, object, ip_of(request), **detail)


def note_row(row: Owned, action: str, **detail: Any) -> AuditEvent:
    """Write an audit event about a row. For "webhook.created", the object is `webhook:<id>`."""
    return note(row.owner, action, f"{action.partition('.')[0]}:{row.pk}", **detail)


def record(
    owner: User, actor: str, action: str, object: str, ip: str | None = None, **detail: Any
) -> AuditEvent:
    """Write an audit event: `actor` did `action` to `object`.

    `actor` is an e-mail address, the name of a key, or a process. An example of `action` is
    "key.exported". `owner` is the owner of the object. `detail` is JSON without secrets. Call this
    function in the transaction that does the action.
    """
    fields = {"action": action, "object": object[:LONGEST], "ip": ip or None, "detail": detail}
    return insert(AuditEvent(owner=owner, actor=actor[:LONGEST], **fields))


def events_of(owner: User, given: Mapping[str, Any]) -> QuerySet[AuditEvent]:
    """Return the events of an owner's objects.

    `given` may have `actor`, `action` and `object`, which must be equal, and `since` and `until`.
    An action that ends with a dot stands for all that begin with it.
    """
    rows = AuditEvent.objects.filter(owner=owner)
    lookups = {"actor": "actor", "object": "object", "since": "at__gte", "until": "at__lt"}
    lookups["action"] = "action__startswith" if str(given.get("action")).endswith(".") else "action"
    return rows.filter(**{lookups[name]: value for name, value in given.items() if value})


def actor_of(request: Any) -> str:
    """Return the user of a request, and its API key if it has one.

    A long e-mail address is cut off. The API key is always complete.
    """
    auth = getattr(request, "auth", None)
    key = f" with {auth}" if auth else ""
    email = getattr(request.user, "email", "somebody")
    return f"{email[: LONGEST - len(key)]}{key}"


def ip_of(request: Any) -> str | None:
    """Return the IP address that the request came from, or None if it is unknown.

    uvicorn has already applied the headers of the proxies that it trusts. Some proxies pass on
    any text that the client sent, so the value may be invalid.
    """
    host, bracket, _ = request.META.get("REMOTE_ADDR", "").strip().removeprefix("[").partition("]")
    if not bracket and host.count(":") == 1:  # IPv4 with a port
        host = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)  # a dual-stack socket writes IPv4 as ::ffff:192.0.2.1


def network_of(ip: str) -> str:
    """Return the network that counts as one address, such as "192.0.2.1/32".

    For an IPv6 address it is the /64, because a host chooses its addresses freely from a /64.
    """
    return str(ipaddress.ip_network(f"{ip}/64" if ":" in ip else ip, strict=False))
