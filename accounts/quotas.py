"""Limits on how many objects of each kind one owner may have.

They keep one owner from filling the server. `User.quotas`, which staff set, comes first. Staff
have no other limits. For other users the setting QUOTAS comes next, then the numbers in this file.
Renewals are never refused. Only objects that a person or a script creates are limited.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db.models import QuerySet

from certctrl.errors import ApiError, Conflict, QuotaExceeded
from certctrl.sentences import sentence as _
from certctrl.statements import Parameter, select

if TYPE_CHECKING:
    from accounts.models import User


@dataclass(frozen=True)
class Quota:
    what: str  # plural noun for sentences
    most: int
    rows: str  # the related name of the user's rows
    counts: Mapping[str, Any] = field(default_factory=dict)  # filter for the rows that count
    refusal: type[ApiError] = QuotaExceeded


ALIVE = {"retired_at": None}
QUOTAS = {
    "api_keys": Quota(_("API keys"), 100, "api_keys", {"revoked_at": None}),
    "dns_credentials": Quota(_("DNS credentials"), 100, "dns_credentials", ALIVE),
    "acme_accounts": Quota(_("ACME accounts"), 100, "acme_accounts", ALIVE),
    "private_cas": Quota(_("private CAs"), 20, "private_cas", {"status": "ACTIVE"}),
    "certificates": Quota(_("certificates"), 100_000, "certificates", ALIVE),
    # A certificate has at most one open attempt, so its certificates are counted.
    "open_attempts": Quota(
        _("open attempts"), 100_000, "certificates", {"issuances__wake_at__isnull": False}
    ),
    "devices": Quota(_("devices"), 10_000, "devices", {"status": "ACTIVE"}),
    # Each notice is posted to every webhook. Clients already know this refusal as Conflict.
    "webhooks": Quota(_("webhooks"), 20, "webhooks", ALIVE, Conflict),
}


def validate(limits: Any) -> None:
    """Raise ValidationError unless `limits` is a dict {name of a quota: integer or None}.

    None means no limit.
    """
    if not isinstance(limits, dict):
        raise ValidationError(
            _('Quotas must be a JSON object, for example {"certificates": 200000}.')
        )
    for name, most in limits.items():
        if name not in QUOTAS:
            raise ValidationError(
                _(
                    "There is no quota %(name)s. Known quotas are %(quotas)s.",
                    name=name,
                    quotas=", ".join(QUOTAS),
                )
            )
        is_number = isinstance(most, int) and not isinstance(most, bool) and 0 <= most < 2**31
        if most is not None and not is_number:
            raise ValidationError(
                _("The quota %(name)s must be a whole number, or null for no limit.", name=name)
            )


def check_setting() -> None:
    try:
        validate(settings.QUOTAS)
    except ValidationError as error:
        raise ImproperlyConfigured(
            f"The setting QUOTAS cannot be used. {' '.join(error.messages)}"
        ) from None


def most(owner: "User", name: str) -> int | None:
    """Return how many the owner may have, or None for no limit."""
    if name in owner.quotas or owner.is_staff:
        limit: int | None = owner.quotas.get(name)
    else:
        limit = settings.QUOTAS.get(name, QUOTAS[name].most)
    return limit


def used(owner: "User", name: str, stop: int | None = None) -> int:
    """Return how many rows the owner has. The count ends at `stop`."""
    quota = QUOTAS[name]
    count: int = getattr(owner, quota.rows).filter(**quota.counts).order_by()[:stop].count()
    return count


def usage(owner: "User", stop: int | None = None) -> list[dict[str, Any]]:
    """Return `name`, `used` and `limit` of each quota. A `limit` of None means no limit.

    The counts end at `stop`.
    """
    return [
        {"name": name, "used": used(owner, name, stop), "limit": most(owner, name)}
        for name in QUOTAS
    ]


@select
def _locked(pk: Parameter) -> QuerySet[Any]:
    return get_user_model()._default_manager.select_for_update(no_key=True).filter(pk=pk)


def lock(owner_id: int) -> "User":
    """Lock the owner's row, and return it. Rows of devices are locked later."""
    [owner] = _locked(pk=owner_id)
    locked: User = owner
    return locked


def refuse_more(owner: "User", *names: str) -> None:
    """Raise QuotaExceeded if the owner has reached a limit. Raise Conflict for webhooks.

    Call this function in the transaction that creates the row. First lock the rows that the new
    row refers to. The owner's row is locked, so that a row created at the same time is counted.
    """
    owner = lock(owner.pk)
    known = {name: most(owner, name) for name in names}
    limits = {name: limit for name, limit in known.items() if limit is not None}
    # First see in an index whether the owner has so many rows at all. Usually this is enough.
    for kind in dict.fromkeys(QUOTAS[name].rows for name in limits):
        same = {name: limit for name, limit in limits.items() if QUOTAS[name].rows == kind}
        least = min(same.values())
        if least == 0 or getattr(owner, kind).order_by()[least - 1 : least].exists():
            for name, limit in same.items():
                _refuse_if_full(owner, name, limit)


def _refuse_if_full(owner: "User", name: str, limit: int) -> None:
    count = used(owner, name)
    if count < limit:
        return
    quota = QUOTAS[name]
    what = _(
        "You have %(count)s %(what)s, and the limit is %(limit)s.",
        count=count,
        what=quota.what,
        limit=limit,
    )
    todo = _("Wait until some have ended") if name == "open_attempts" else _("Delete some")
    facts = {"quota": name, "limit": limit, "used": count}
    raise quota.refusal(
        _(
            "%(what)s %(todo)s, or ask the staff of this server to raise your quota %(name)s.",
            what=what,
            todo=todo,
            name=name,
        ),
        **facts,
    )
