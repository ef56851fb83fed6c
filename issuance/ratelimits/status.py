"""Show what is left of a CA's limits."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from django.db.models import IntegerField, OuterRef, Subquery

from accounts.models import User
from authorities import catalog
from authorities.catalog import LimitKind
from authorities.models import AcmeAccount
from certctrl import clock
from issuance.models import Certificate, LimitBucket, Reservation
from issuance.ratelimits import charges, queue
from issuance.ratelimits.charges import Charge
from issuance.ratelimits.ledger import Ledger

SHOWN = 500  # newest certificates of an account whose buckets are shown
ACCOUNTS = 50  # newest accounts of an owner whose buckets are compared
WAITING = 50  # certificates of each kind whose buckets are compared with them
MOST_COUNTED = 1000  # due certificates, and reservations, that wait for a bucket


def levels(account: AcmeAccount) -> list[dict[str, Any]]:
    """Return the levels of the buckets of an account and its newest certificates.

    Return also how many orders wait for each. The shape is that of the API
    (`docs/reference/api.md`). A `busy` bucket is returned only while it is closed.
    """
    ordered = (
        account.certificates.filter(retired_at=None).order_by("-pk").values_list("names", flat=True)
    )
    wanted = {want for domains in ordered[:SHOWN] for want in charges.of_names(account, domains)}
    return _levels(account.owner, [*wanted, *charges.of_account(account)])


def scarce(owner: User) -> list[dict[str, Any]]:
    """Return the levels of the buckets of all accounts of an owner, the scarcest first.

    Of names, only those are returned that a certificate is held back by, or waits for. At most
    MOST_COUNTED orders of each kind are counted that wait for a bucket.
    """
    accounts = AcmeAccount.objects.filter(owner=owner, retired_at=None, private_ca=None)
    wanted = [
        each for row in accounts.order_by("-pk")[:ACCOUNTS] for each in charges.of_account(row)
    ]
    held = Certificate.objects.filter(owner=owner, lacks__isnull=False, retired_at=None)
    queued = Reservation.objects.filter(owner=owner, state=Reservation.State.WAITING)
    lacking = queued.filter(lacks__isnull=False)
    joined = lacking.select_related("issuance__certificate__account")
    waiting = [each.issuance.certificate for each in joined[:WAITING]]
    for each in (*held.select_related("account")[:WAITING], *waiting):
        wanted += charges.of_names(each.account, each.names)
    shown = _levels(owner, list(dict.fromkeys(wanted)), MOST_COUNTED)
    known = [each for each in shown if each["capacity"]]
    return sorted(known, key=lambda each: (not each["waiting"], each["left"] / each["capacity"]))


def left_of_set(account: AcmeAccount, names: Sequence[str]) -> dict[str, Any] | None:
    """Return the level of the bucket of exactly these names; None where the CA has no limit."""
    charge = charges.of_names(account, names)[0]
    limit = catalog.limits_at(charge.ca).get(charge.kind)
    if account.is_private or not limit:
        return None
    if found := _levels(account.owner, [charge]):
        return found[0]
    full = {"ca": charge.ca, "kind": charge.kind, "subject": charge.label, "waiting": 0}
    tokens = {"capacity": limit.capacity, "seconds_for_one": limit.each, "left": limit.capacity}
    return {**full, **tokens, "next_at": clock.now()}


def _levels(
    owner: User, wanted: Collection[Charge], most: int | None = None
) -> list[dict[str, Any]]:
    found = charges.find(wanted)
    ledger = Ledger(found.values(), lock=False)
    waits = _waits(ledger.rows, most)
    shown = [
        row for row in ledger.rows.values() if row.kind != LimitKind.BUSY or ledger.now < row.at
    ]
    return [_level(ledger, row, owner.pk, waits[row.pk]) for row in shown]


class _Number(Subquery):
    """The number of rows of a query, which is for each row of the outer one."""

    template = "(SELECT count(*) FROM (%(subquery)s) AS counted)"
    output_field = IntegerField()


def _waits(ids: Iterable[int], most: int | None) -> dict[int, int]:
    """Return how many orders wait for each bucket, at most `most` of each kind."""
    held = Certificate.objects.filter(lacks=OuterRef("pk"))
    waiting = queue.waits().filter(bucket=OuterRef("pk"))
    rows = LimitBucket.objects.filter(pk__in=list(ids))
    counted = rows.annotate(
        held=_Number(held.values("pk")[:most]),
        waiting=_Number(waiting.values("pk")[:most]),
    )
    return {pk: a + b for pk, a, b in counted.values_list("pk", "held", "waiting")}


def _level(ledger: Ledger, row: LimitBucket, owner: int, waits: int) -> dict[str, Any]:
    limit = ledger.limit(row.pk)
    known = limit if limit.capacity != float("inf") else None
    left = ledger.level(row.pk, owner)
    return {
        "ca": row.ca,
        "kind": row.kind,
        "subject": row.label or row.subject,
        "capacity": known.capacity if known else None,
        "seconds_for_one": known.each if known else None,
        "left": round(max(0.0, left), 3) if known or ledger.now < row.at else None,
        "waiting": waits,
        "next_at": ledger.slot(row.pk, 1, owner, waits),
    }
