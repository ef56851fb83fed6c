"""Rows that tests start from, with defaults for the values that a test does not care about."""

import hashlib
import secrets
import uuid
from datetime import timedelta
from typing import Any

import factory
from nacl.public import PrivateKey  # noqa: TID251

from accounts.models import ApiKey, User
from certctrl import clock
from devices.models import Device, DeviceTag
from keystore import recipients

PASSWORD = "Correct-horse-1"


class UserFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = User
        skip_postgeneration_save = True

    email = factory.Sequence(lambda number: f"user{number}@example.org")
    name = factory.LazyAttribute(lambda user: user.email.partition("@")[0])

    @classmethod
    def _create(
        cls, model_class: type[User], *args: Any, password: str = PASSWORD, **kwargs: Any
    ) -> User:
        return model_class.objects.create_user(*args, password=password, **kwargs)


def api_key(owner: User, *scopes: str, **fields: Any) -> str:
    """Create an API key and return its token.

    A scope is, for example, `certificates:*[read]` or `certificates:12[read,issue]`.
    """
    token = ApiKey.MARK + secrets.token_urlsafe(32)
    digest = hashlib.sha256(token.encode()).hexdigest()
    defaults = {
        "name": "script",
        "prefix": token[:11],
        "expires_at": clock.now() + timedelta(days=1),
    }
    permissions = [permission(scope) for scope in scopes]
    ApiKey.objects.create(owner=owner, digest=digest, permissions=permissions, **defaults | fields)
    return token


def permission(scope: str) -> dict[str, Any]:
    obtype, _, rest = scope.partition(":")
    obid, _, actions = rest.rstrip("]").partition("[")
    return {"obtype": obtype, "obid": obid, "actions": actions.split(",")}


def device(owner: User, *tags: str, key: PrivateKey | None = None, **fields: Any) -> Device:
    """Create a device that has these tags. `key` is its key pair."""
    key = key or PrivateKey.generate()
    now = clock.now()
    defaults = {"public_id": str(uuid.uuid4()), "enrolled_at": now, "last_seen_at": now}
    public_key = recipients.recipient_key(owner, bytes(key.public_key))
    row = Device.objects.create(owner=owner, key=public_key, **defaults | fields)
    DeviceTag.objects.bulk_create([DeviceTag(device=row, tag=tag) for tag in tags])
    return row
