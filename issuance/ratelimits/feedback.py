"""What the CA's own answers teach about its limits."""

import re
from datetime import timedelta

from authorities import catalog
from authorities.catalog import LimitKind
from certctrl import clock
from certctrl.turns import Trouble
from issuance.models import Issuance, LimitBucket
from issuance.ratelimits import charges
from issuance.ratelimits.ledger import Ledger

Kind = LimitKind


# In the words of Let's Encrypt: https://letsencrypt.org/docs/rate-limits/
WORDS = (
    (re.compile(r"exact(ly this| same)? set", re.I), Kind.SET),
    (re.compile(r"failed (authorizations|validations)", re.I), Kind.FAILURES),
    (re.compile(r"already issued for", re.I), Kind.DOMAIN),
    (re.compile(r"new orders", re.I), Kind.ACCOUNT),
)


def learn(issuance: Issuance, trouble: Trouble, replaces: str) -> None:
    """The CA names a moment: what it counted is closed until then, and holds one token then. Without words about what
    it counted it may only be busy, and so it is for an order that it should not count at all: the account waits, with
    whatever it orders, and loses nothing."""
    kind = next((kind for words, kind in WORDS if words.search(trouble.what)), None)
    if replaces:
        kind = None
    refused = (
        [want for want in charges.of_order(issuance) if want.kind == kind and want.cost]
        if kind
        else []
    )
    named = (
        [want for want in refused if f'"{want.label}"' in trouble.what]
        or refused
        or [charges.busy(issuance.account)]
    )
    directory, now = catalog.directory_of(issuance.account), clock.now()
    rows = [
        LimitBucket(
            ca=directory,
            kind=want.kind,
            subject=want.subject,
            label=want.label[:320],
            level=1.0,
            at=now,
        )
        for want in named
    ]
    LimitBucket.objects.bulk_create(
        rows, ignore_conflicts=True
    )  # others may learn the same at the same moment
    ledger = Ledger(charges.find(directory, named).values())
    for pk in ledger.rows:
        ledger.close(
            pk, now + timedelta(seconds=trouble.retry_after or 0), emptied=kind is not None
        )
    ledger.save()
