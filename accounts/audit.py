"""The record of what was done."""

from typing import Any

from accounts.models import AuditEvent, User


def record(owner: User, actor: str, action: str, object: str, ip: str | None = None, **detail: Any) -> AuditEvent:
    """Write down that `actor` (an e-mail address, a key's name, a process) did `action` ("key.exported") to `object`.

    `owner` is whose object it is; `detail` is JSON without secrets. Call it in the transaction that it tells of.
    """
    fields = {"actor": actor, "action": action, "object": object, "ip": ip or None, "detail": detail}
    return AuditEvent.objects.create(owner=owner, **fields)


def actor_of(request: Any) -> str:
    """Who a request of the API comes from: the user, and the key where it came with one."""
    key = request.auth
    return f"{request.user.email} with {key}" if key else str(request.user.email)


def ip_of(request: Any) -> str | None:
    """The address that the request came from; uvicorn has already believed the proxies it trusts."""
    return request.META.get("REMOTE_ADDR") or None
