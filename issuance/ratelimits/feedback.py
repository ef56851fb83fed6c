"""Learn about a CA's limits from its answers."""

import re
from datetime import timedelta

from authorities import catalog
from authorities.catalog import LimitKind
from certctrl import clock
from certctrl.turns import Trouble
from issuance.models import Issuance, LimitBucket
from issuance.ratelimits import charges
from issuance.ratelimits.charges import Charges
from issuance.ratelimits.ledger import Ledger

Kind = LimitKind


# The words of Let's Encrypt, https://letsencrypt.org/docs/rate-limits/
WORDS = (
    (re.compile(r"exact(ly this| same)? set", re.I), Kind.SET),
    (re.compile(r"failed (authorizations|validations)", re.I), Kind.FAILURES),
    (re.compile(r"already issued for", re.I), Kind.DOMAIN),
    (re.compile(r"new orders", re.I), Kind.ACCOUNT),
)


def learn(issuance: Issuance, trouble: Trouble, counted: Charges | None) -> None:
    """Close the bucket that the CA refused for, until the time in its Retry-After.

    At that time the bucket holds at most one token. If the CA does not name a limit, it may only be
    busy. The same is true for an order that the CA should not count. Its `counted` is None. Then
    the `busy` bucket of the account is closed. All orders of the account wait, and no tokens are
    lost.
    """
    said = next((kind for words, kind in WORDS if words.search(trouble.what)), None)
    kind, listed = (said, counted.listed) if counted else (None, [])
    refused = [want for want in listed if want.cost and want.kind == kind]
    named = (
        [want for want in refused if f'"{want.label}"' in trouble.what]
        or refused
        or [charges.busy_of(issuance.account)]
    )
    directory = catalog.directory_of(issuance.account)
    now = clock.now()
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
    )  # another worker may learn the same at the same time
    ledger = Ledger(charges.find(directory, named).values())
    for pk in ledger.rows:
        ledger.close(
            pk, now + timedelta(seconds=trouble.retry_after or 0), emptied=kind is not None
        )
    ledger.save()
