"""The services of webhooks: create, change, rotate the secret, remove."""

import base64
import secrets
from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.views.decorators.debug import sensitive_variables

from accounts import audit, quotas
from accounts.models import User
from certctrl import clock, outgoing
from certctrl.errors import Conflict, Invalid
from certctrl.sentences import sentence as _
from keystore import envelope
from keystore.models import Envelope
from notices.models import Webhook

PURPOSE = "webhook_secret"
URL_PURPOSE = "webhook_url"
MOST = quotas.QUOTAS["webhooks"].most
SECRET_BYTES = 32  # Standard Webhooks allows 24 to 64 bytes


@sensitive_variables()
def create_webhook(owner: User, given: Mapping[str, Any]) -> tuple[Webhook, str]:
    """Create a webhook. Return it with its secret, which is not shown again.

    `given` has url, name, kinds and enabled. Raise Invalid for a URL that this server does not
    post to. Raise Conflict if the owner has too many webhooks.
    """
    _refuse_url(owner, given["url"])
    secret = _new_secret()
    with transaction.atomic():
        quotas.refuse_more(owner, "webhooks")
        sealed = envelope.seal(owner, PURPOSE, secret.encode())
        columns = _columns(given) | _address(owner, given)
        name = given.get("name") or columns["host"][:64]
        webhook = Webhook.objects.create(owner=owner, secret=sealed, **columns | {"name": name})
        audit.note_row(webhook, "webhook.created", name=webhook.name, host=webhook.host)
    return webhook, secret


def update_webhook(webhook: Webhook, given: Mapping[str, Any]) -> Webhook:
    """Change the given members. Raise Invalid for a URL that this server does not post to.

    Raise Conflict if the webhook was removed. `enabled` true enables a disabled webhook again and
    clears its last error.
    """
    if "url" in given:
        _refuse_url(webhook.owner, given["url"])
    fields = _columns(given)
    with transaction.atomic():
        row = _locked(webhook)
        if row.disabled_at and "enabled" in given:
            if given["enabled"]:
                fields["last_error"] = ""
            else:
                del fields["disabled_at"]  # it is disabled already, so keep that time
        fields |= _address(webhook.owner, given)
        Webhook.objects.filter(pk=webhook.pk).update(**fields, updated_at=clock.now())
        if "url" in given:
            Envelope.objects.filter(pk__in=[row.address_id]).delete()
        webhook = Webhook.objects.get(pk=webhook.pk)
        audit.note_row(
            webhook,
            "webhook.changed",
            name=webhook.name,
            host=webhook.host,
            members=sorted(given),
            enabled=webhook.enabled,
        )
    return webhook


@sensitive_variables()
def rotate_secret(webhook: Webhook) -> str:
    """Replace the secret immediately and return the new one.

    Posts that the receiver refuses in the meantime are tried again later.
    """
    secret = _new_secret()
    with transaction.atomic():
        old = _locked(webhook).secret_id
        sealed = envelope.seal(webhook.owner, PURPOSE, secret.encode())
        Webhook.objects.filter(pk=webhook.pk).update(secret=sealed, updated_at=clock.now())
        Envelope.objects.filter(pk__in=[old]).delete()
        audit.note_row(webhook, "webhook.secret_rotated", name=webhook.name, host=webhook.host)
    return secret


def retire_webhook(webhook: Webhook) -> None:
    """Remove a webhook and delete its secret and its URL.

    Nothing more is posted to it. The row is kept for the history of deliveries.
    """
    with transaction.atomic():
        row = _locked(webhook)
        Webhook.objects.filter(pk=webhook.pk).update(
            retired_at=clock.now(), secret=None, address=None
        )
        Envelope.objects.filter(pk__in=[row.secret_id, row.address_id]).delete()
        audit.note_row(webhook, "webhook.deleted", name=webhook.name, host=webhook.host)


def _locked(webhook: Webhook) -> Webhook:
    """Lock the row and return it. Raise Conflict if the webhook was removed."""
    row = Webhook.objects.select_for_update().get(pk=webhook.pk)
    if row.secret_id is None:
        raise Conflict(_("The webhook %(name)s was deleted.", name=webhook.name))
    return row


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def _columns(given: Mapping[str, Any]) -> dict[str, Any]:
    columns = {name: given[name] for name in ("name", "kinds") if name in given}
    if "enabled" in given:
        columns |= {"disabled_at": None if given["enabled"] else clock.now()}
    return columns


@sensitive_variables()
def _address(owner: User, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the host and the sealed URL as columns.

    The path or the query of a URL is often a secret. Only the host is stored in plain text.
    """
    if "url" not in given:
        return {}
    host = outgoing.called(given["url"]).hostname  # type: ignore[union-attr]
    return {"host": host, "address": envelope.seal(owner, URL_PURPOSE, given["url"].encode())}


def _refuse_url(owner: User, url: str) -> None:
    with outgoing.named_by_tenant(not owner.is_staff):
        _refuse_named(url, "ALLOW_PRIVATE" if owner.is_staff else "ALLOW_PRIVATE_FOR_TENANTS")


def _refuse_named(url: str, setting: str) -> None:
    parts = outgoing.called(url)
    if not parts or parts.scheme not in ("http", "https"):
        what = _(
            "url must be an https address without a user name, for example "
            "https://hooks.example.com/certctrl."
        )
        raise Invalid(what, field="url")
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if parts.scheme == "http" and not outgoing.is_named(host, port):
        what = _(
            "url must be https. http is only for hosts that the setting %(setting)s "
            "names, and it does not name %(host)s.",
            setting=setting,
            host=host,
        )
        raise Invalid(what, field="url")
    spelled = outgoing.literal(host)
    if spelled and not outgoing.is_allowed(host, spelled, port):
        raise Invalid(
            _(
                "%(host)s is not a public address, and the setting %(setting)s does not name "
                "it. Give another url.",
                host=host,
                setting=setting,
            ),
            field="url",
        )
