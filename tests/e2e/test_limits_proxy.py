"""Orders at a CA with limits and faults wait, and none is refused.

The proxy in front of Pebble and the server have the same limits. The proxy counts the refused
orders. `benchmarks.limits` measures a thousand orders and their pace.
"""

import pytest

from dnsproviders.records import ZONE_LAG
from tests.e2e import limited, processes
from tests.e2e.limited import FAULTS, alone, in_domains, same_names
from tests.e2e.processes import until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(processes.missing()), reason=f"needs Debian's {processes.missing()} (apt-get install)"
    ),
]

LIMITS = {"account": [30, 0.4], "domain": [5, 2], "set": [3, 12], "failures": [5, 720]}
ORDERS = 200
SETS = 5
ASKERS = 8
KILLED_AT = (70, 120)  # orders


def test_workers_that_are_killed_in_the_middle_send_no_burst_afterwards(tmp_path):
    """This is true for orders that were reserved, and for those sent without a read response."""
    shared = in_domains(20, 20, 20, 20, 20)
    same = same_names(SETS, ASKERS)
    with limited.running(tmp_path, LIMITS, accounts=1 + ASKERS) as ca:
        ca.proxy.change(faults=FAULTS[:-1])
        for name, account in limited.mixed(shared, same, alone(ORDERS - len(shared) - len(same))):
            ca.request(name, account)
        for orders in KILLED_AT:
            until(
                lambda orders=orders: len(ca.proxy.accepted) >= orders,
                300,
                f"the {orders}th order",
                every=0.1,
            )
            ca.stop_workers()
            ca.start_workers()
        # A record that a killed worker has just removed is checked again until ZONE_LAG is over.
        ca.until_issued(ORDERS, 600, cleaned=ZONE_LAG.total_seconds() + 60)
        waited = ca.waited()
        tally = ca.proxy.tally
        pace = limited.pace(ca.proxy.accepted, LIMITS)
        print(f"waited: {waited}; {tally}; {pace:.0%} of what the limits allow")

        assert (tally["refused"], tally["overdrawn"]) == ({}, {})
        assert sum(waited.values()) > 0, (
            waited
        )  # of which kind is a matter of how fast the machine is
        assert ca.lab.left_over() == {}
