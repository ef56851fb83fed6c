"""A thousand orders at a CA that enforces its limits and breaks now and then: `python -m benchmarks.limits`.

Half of them are in five registered domains, others share exact sets of names, some are renewals with `replaces`; 429,
503, dropped connections, nonces that are refused, slow signing. The fault proxy before Pebble and the server were given
the same limits. Prints what waited, what the proxy counted, and how close the orders came to the rate that the limits
allow after their bursts. Exits with 1 when one was refused for a limit, a kind of bucket made fewer than fifty wait, or
they reached less than nine tenths of that rate.
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

# The slowest buckets are those of the largest domain, (140 - 20) * 2 s, and of each set, (8 - 5) * 80 s: that is what
# two cores can follow.
LIMITS = {"account": [100, 0.2], "domain": [20, 2], "set": [5, 80], "failures": [5, 720]}
IN_FIVE_DOMAINS = (140, 110, 90, 80, 80)
# Sets of names, and accounts that each ask for all of them. Pebble asks by UDP without EDNS: it sees eight TXT values.
SETS, ASKERS = 40, 8
RENEWED = 30
ALONE = 1000 - sum(IN_FIVE_DOMAINS) - SETS * ASKERS - RENEWED
LEAST_WAITING, LEAST_PACE = 50, 0.9


def order_all(ca: Limited) -> list[dict[str, object]]:
    """Ask for all of them while nobody works, then let the workers go; the orders that the CA took since."""
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
            waited, tally, left = ca.waited(), ca.proxy.tally, ca.lab.left_over()
        reached = limited.pace(accepted, LIMITS)
    tell(
        orders=len(accepted),
        waited=waited,
        refused=tally["refused"],
        replaced=tally["replaced"],
        faults=tally["faults"],
        pace=reached,
        left_in_the_zone=len(left),
    )
    return (
        not tally["refused"]
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
