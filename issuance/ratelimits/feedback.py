"""Learn about a CA's limits from its answers."""

import re
from collections.abc import Iterable
from datetime import timedelta

from authorities.catalog import LimitKind as Kind
from certctrl.turns import Trouble
from issuance.models import Issuance
from issuance.ratelimits import charges
from issuance.ratelimits.charges import Charge
from issuance.ratelimits.ledger import Ledger

LONGEST_PAUSE = timedelta(minutes=5)  # of an account, when the CA does not name a limit

# The words of Let's Encrypt, https://letsencrypt.org/docs/rate-limits/
WORDS = (
    (re.compile(r"exact(ly this| same)? set", re.I), Kind.SET),
    (re.compile(r"failed (authorizations|validations)", re.I), Kind.FAILURES),
    (re.compile(r"already issued for", re.I), Kind.DOMAIN),
    (re.compile(r"new orders", re.I), Kind.ACCOUNT),
)


def learn(issuance: Issuance, trouble: Trouble, counted: Iterable[Charge]) -> None:
    """Close the bucket that the CA refused for, until the time in its Retry-After.

    At that time the bucket holds at most one token. If the CA does not name a limit, only the
    attempt waits. Several such refusals of different orders pause the account for a few minutes.
    Then one order is the trial. `counted` is empty for an order that the CA should not count.
    """
    said = next((kind for words, kind in WORDS if words.search(trouble.what)), None)
    refused = [want for want in counted if want.cost and want.kind == said]
    named = [want for want in refused if f'"{want.label}"' in trouble.what] or refused
    wanted = named or charges.of_account(issuance.account)[1:]
    pause = timedelta(seconds=trouble.retry_after or 0)
    ledger = Ledger(charges.make(wanted).values())
    for pk in ledger.rows:
        if named:
            ledger.close(pk, ledger.now + pause)
        elif not issuance.stumbles or ledger.is_in_trouble(pk):
            ledger.strike(pk, min(pause, LONGEST_PAUSE))
    ledger.save()
