"""Rows that tests start from, with defaults for the values that a test does not care about."""

import hashlib
import secrets
from datetime import timedelta
from typing import Any

import factory

from accounts.models import ApiKey, User
from certctrl import clock

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
