"""The permissions that an API key may have, and the check that every view makes."""

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from accounts.models import ApiKey
from certctrl import errors
from certctrl.sentences import sentence as _

# Type of object: (description, actions). See docs/reference/api.md.
PERMISSIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "certificates": (
        _("Certificates (see, export, change, issue and renew)"),
        ("read", "write", "issue"),
    ),
    "devices": (_("Devices and what is installed on them"), ("read", "write")),
    "acme_accounts": (_("Accounts at certificate authorities"), ("read", "write")),
    "dns_providers": (
        _("Credentials of DNS providers; their secrets are never shown"),
        ("read", "write"),
    ),
    "notices": (_("Notices, and where they are sent"), ("read", "write")),
    "webhooks": (
        _("Webhooks that receive notices; a secret is shown once"),
        ("read", "write"),
    ),
    "cas": (_("Private CAs (see, change, issue from)"), ("read", "write", "issue")),
    "audit": (_("The audit events of your objects"), ("read",)),
    "quotas": (_("The number of objects of each kind, and the limits"), ("read",)),
    "ForInstallConfigUpdate": (_("Patch the install plan of a device"), ("update",)),
    "ForDeviceAuthenticate": (
        _("Register devices and manage their tokens"),
        ("authenticate", "validate", "revoke"),
    ),
}
SAFE = ("GET", "HEAD", "OPTIONS")


class Allowed(BasePermission):
    """A session may do everything within its user's scope. An API key needs a permission.

    The view declares the permission that it needs (see certctrl.api). A key with the ids of
    objects passes where the path names one of them. Such a key also passes on lists, which then
    contain only these objects. To create an object, a key needs `*`.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        if not request.user.is_authenticated:
            what = _("Log in first, or send an API key: Authorization: Bearer ak_...")
            if getattr(view, "session_only", False):
                what = _(
                    "Log in first, with e-mail address and password. An API key cannot do this."
                )
            elif "Authorization" in request.headers:
                what = _(
                    "The header Authorization has no API key, which begins with ak_. Send one."
                )
            raise errors.NotLoggedIn(what)
        if isinstance(request.auth, ApiKey) and not is_unknown_method(view):
            refuse_unless_granted(request.auth, request, view)
        return True


def is_unknown_method(view: Any) -> bool:
    """Return whether the viewset has no action for this method, so that every caller gets 405."""
    return getattr(view, "action", "") in (None, "metadata")  # OPTIONS gets 405 too


def refuse_unless_granted(key: ApiKey, request: Request, view: Any) -> None:
    needed = view.needed_action() if hasattr(view, "needed_action") else None
    if not needed:
        raise errors.Forbidden(
            _("An API key cannot do this. Log in with e-mail address and password instead.")
        )
    obtype = view.needed_obtype()
    granted = key.granted(obtype, needed)
    object_id = view.object_id()
    if "*" in granted or object_id in granted:
        return
    if granted and object_id is None and request.method in SAFE:
        return
    raise lacks(obtype, object_id, needed)


def lacks(obtype: str, object_id: str | None, action: str) -> errors.Forbidden:
    scope = f"{obtype}:{object_id or '*'}[{action}]"
    return errors.Forbidden(
        _("This API key lacks %(scope)s. Make one that has it.", scope=scope), needs=scope
    )


def need(request: Request, obtype: str, object_id: str | None, action: str) -> None:
    """Raise Forbidden if the request's API key lacks this permission.

    Call this function for a request that does more than its view declares.
    """
    key = request.auth
    if isinstance(key, ApiKey) and not key.granted(obtype, action) & {"*", object_id}:
        raise lacks(obtype, object_id, action)
