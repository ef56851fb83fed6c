"""Show what is left of a CA's limits."""

from collections import Counter
from typing import Any

from django.db.models import Count

from authorities.catalog import LimitKind
from authorities.models import AcmeAccount
from issuance.models import Certificate, LimitBucket
from issuance.ratelimits import charges, queue
from issuance.ratelimits.ledger import Ledger

Kind = LimitKind
SHOWN = 500  # newest certificates of an account whose buckets are shown


def levels(account: AcmeAccount) -> list[dict[str, Any]]:
    """Return the levels of the buckets of an account and its newest certificates.

    Return also how many orders wait for each. The shape is that of the API
    (`docs/reference/api.md`). A `busy` bucket is returned only while it is closed.
    """
    ordered = (
        account.certificates.filter(retired_at=None).order_by("-pk").values_list("names", flat=True)
    )
    wanted = {want for domains in ordered[:SHOWN] for want in charges.of_names(account, domains)}
    found = charges.find([*wanted, *charges.of_account(account)])
    ledger = Ledger(found.values(), account.owner_id, lock=False)
    held = Certificate.objects.filter(lacks__in=ledger.rows)
    waiting = queue.waits_of(ledger.rows)
    waits = Counter(dict(waiting.values_list("bucket").annotate(Count("pk"))))
    waits.update(dict(held.values_list("lacks").annotate(Count("pk"))))
    shown = [
        row for row in ledger.rows.values() if row.kind != LimitKind.BUSY or ledger.now < row.at
    ]
    return [_level(ledger, row, waits[row.pk]) for row in shown]


def _level(ledger: Ledger, row: LimitBucket, waits: int) -> dict[str, Any]:
    limit = ledger.limit(row.pk)
    known = limit if limit.capacity != float("inf") else None
    return {
        "kind": row.kind,
        "subject": row.label or row.subject,
        "capacity": known.capacity if known else None,
        "seconds_for_one": known.each if known else None,
        "left": round(max(0.0, ledger.level(row.pk)), 3) if known or ledger.now < row.at else None,
        "waiting": waits,
        "next_at": ledger.slot(row.pk, 1, waits),
    }
