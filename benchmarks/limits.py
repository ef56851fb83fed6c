"""A thousand orders at a CA with limits and faults: `python -m benchmarks.limits`.

Half of the names are in five registered domains. Others share exact sets of names. Some are
renewals with `replaces`. The faults are 429, 503, dropped connections, refused nonces and slow
signing.

The fault proxy in front of Pebble has the same limits as the server. The benchmark prints which
orders waited and what the proxy counted. It also prints the pace: the rate of orders compared with
the rate that the limits allow after their bursts.

Exits with 1 in any of these cases:

- a limit refused an order
- a kind of bucket made fewer than fifty orders wait
- the pace is below nine tenths
"""

import argparse
import pathlib
import sys
import tempfile

from benchmarks.measuring import tell
from tests.e2e import limited
from tests.e2e.limited import (
    FAULTS,
    LEFT_ALONE,
    Limited,
    alone,
    in_domains,
    issued_before,
    same_names,
)

# The slowest buckets need these times: (140 - 20) * 2 s for the largest domain, and (8 - 5) * 80 s
# for each set. Two cores can follow these rates.
LIMITS = {"account": [100, 0.2], "domain": [20, 2], "set": [5, 80], "failures": [5, 720]}
IN_FIVE_DOMAINS = (140, 110, 90, 80, 80)
# The number of sets of names, and of accounts that each order all sets. Pebble asks by UDP without
# EDNS, so it sees at most eight TXT values.
SETS = 40
ASKERS = 8
RENEWED = 30
ALONE = 1000 - sum(IN_FIVE_DOMAINS) - SETS * ASKERS - RENEWED
LEAST_WAITING = 50
LEAST_PACE = 0.9


def order_all(ca: Limited) -> list[dict[str, object]]:
    """Request all certificates while no worker runs, then start the workers.

    Return the orders that the CA accepted since then.
    """
    certificates = issued_before(ca, RENEWED)
    before = len(ca.proxy.accepted)
    ca.stop_workers()
    for name, account in limited.mixed(
        in_domains(*IN_FIVE_DOMAINS), same_names(SETS, ASKERS), alone(ALONE)
    ):
        ca.request(name, account)
    for certificate in certificates:
        ca.site.call("POST", f"certificates/{certificate}/renew", {})
    ca.proxy.change(faults=FAULTS)
    ca.start_workers()
    ca.until_issued(RENEWED + 1000, 900)
    return list(ca.proxy.accepted[before:])


def run() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        with limited.running(pathlib.Path(folder), LIMITS, accounts=1 + ASKERS, **LEFT_ALONE) as ca:
            accepted = order_all(ca)
            waited = ca.waited()
            tally = ca.proxy.tally
            left = ca.lab.left_over()
        reached = limited.pace(accepted, LIMITS)
    tell(
        orders=len(accepted),
        waited=waited,
        refused=tally["refused"],
        overdrawn=tally["overdrawn"],
        replaced=tally["replaced"],
        faults=tally["faults"],
        pace=reached,
        left_in_the_zone=len(left),
    )
    return (
        not tally["refused"]
        and not tally["overdrawn"]
        and min(waited.values()) >= LEAST_WAITING
        and reached >= LEAST_PACE
        and not left
    )


def main(arguments: list[str] | None = None) -> int:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(arguments)
    return 0 if run() else 1


if __name__ == "__main__":
    sys.exit(main())
