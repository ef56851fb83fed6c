"""Find certificates of an owner: the filters of the lists, in the API and on the pages."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from django.db.models import QuerySet

from accounts.models import User
from issuance.models import Certificate
from issuance.services.counting import of_condition
from issuance.services.searching import search


@dataclass(frozen=True)
class Filter:
    """Which certificates a list has. An empty field lets every certificate through."""

    words: str = ""  # that a label of a name begins with, or a serial number
    condition: str = ""
    account: int | None = None
    credential: int | None = None
    ca_provider: str = ""
    key_policy: str = ""
    label: str = ""
    ends_before: date | None = None  # in UTC


def found(rows: QuerySet[Certificate], owner: User, wanted: Filter) -> QuerySet[Certificate]:
    """Return the certificates of the owner that pass the filter."""
    if wanted.condition:
        rows = of_condition(rows, wanted.condition)
    if words := wanted.words.strip().replace("\0", ""):
        rows = search(rows, owner, words)
    equal = {
        "account": wanted.account,
        "credential": wanted.credential,
        "account__ca_provider": wanted.ca_provider.replace("\0", ""),
        "key_policy": wanted.key_policy.replace("\0", ""),
        "labels__name": wanted.label.replace("\0", ""),
    }
    rows = rows.filter(**{name: value for name, value in equal.items() if value})
    if wanted.ends_before:
        rows = rows.filter(expires_at__lt=datetime.combine(wanted.ends_before, time.min, UTC))
    return rows
