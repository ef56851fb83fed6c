"""A thousand orders at a CA that enforces its limits and breaks now and then: they wait, and none is refused.

The proxy before Pebble and the server were given the same data. What was refused for a limit is the proxy's to count.
"""

import pytest

from tests.e2e import limited, processes
from tests.e2e.limited import LEFT_ALONE, ZONE, Limited
from tests.e2e.processes import until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(processes.missing()), reason=f"needs Debian's {processes.missing()} (apt-get install)"),
]

# The slowest buckets are those of the largest domain, (140 - 20) * 2 s, and of each set, (8 - 5) * 80 s: that is what
# two cores can follow.
LIMITS = {"account": [100, 0.2], "domain": [20, 2], "set": [5, 80], "failures": [5, 720]}
IN_FIVE_DOMAINS = (140, 110, 90, 80, 80)
# Sets of names, and accounts that each ask for all of them. Pebble asks by UDP without EDNS: it sees eight TXT values.
SETS, ASKERS = 40, 8
RENEWED = 30
ALONE = 1000 - sum(IN_FIVE_DOMAINS) - SETS * ASKERS - RENEWED
FAULTS = [
    {"do": "answer", "status": 429, "retry_after": 2, "probability": 0.001},
    {"do": "answer", "status": 503, "retry_after": 2, "probability": 0.001},
    {"do": "answer", "status": 503, "probability": 0.001},
    {"do": "drop_before", "probability": 0.001},
    {"do": "drop_after", "probability": 0.001},
    {"do": "bad_nonce", "probability": 0.0005, "run": 8},
    {"do": "processing", "probability": 0.05, "reads": 2},
    {"do": "already_replaced", "times": 3},
]

FEW_LIMITS = {"account": [30, 0.4], "domain": [5, 2], "set": [3, 12], "failures": [5, 720]}
FEW, FEW_SETS = 200, 5
KILLED_AT = (70, 120)  # orders


def in_domains(*counts: int) -> list[tuple[str, int]]:
    """Names of a few registered domains, all of the first account's."""
    return [(f"host{number}.shared{at}.{ZONE}", 0) for at, count in enumerate(counts) for number in range(count)]


def same_names(sets: int, askers: int) -> list[tuple[str, int]]:
    """Each of the other accounts asks for each of the sets."""
    return [(f"www.same{number}.{ZONE}", 1 + asker) for asker in range(askers) for number in range(sets)]


def alone(count: int) -> list[tuple[str, int]]:
    """Names that share their registered domains with nobody."""
    return [(f"www.alone{number}.{ZONE}", 0) for number in range(count)]


def issued_before(ca: Limited, count: int) -> list[int]:
    """Certificates that there are already."""
    ids = [ca.request(f"www.renewed{number}.{ZONE}") for number in range(count)]
    ca.until_issued(count, 300)
    return ids


def test_a_thousand_orders_wait_for_their_slots_and_none_is_refused(tmp_path):
    with limited.running(tmp_path, LIMITS, accounts=1 + ASKERS, **LEFT_ALONE) as ca:
        certificates = issued_before(ca, RENEWED)
        before = len(ca.proxy.accepted)
        ca.stop_workers()  # so that all of them are asked for before the first is ordered
        for name, account in limited.mixed(in_domains(*IN_FIVE_DOMAINS), same_names(SETS, ASKERS), alone(ALONE)):
            ca.request(name, account)
        for certificate in certificates:
            ca.site.call("POST", f"certificates/{certificate}/renew", {})
        ca.proxy.change(faults=FAULTS)
        ca.start_workers()
        ca.until_issued(RENEWED + 1000, 900)
        waited, tally, accepted = ca.waited(), ca.proxy.tally, ca.proxy.accepted[before:]
        reached = limited.pace(accepted, LIMITS)
        print(f"waited: {waited}; {tally}; {reached:.0%} of what the limits allow")

        assert tally["refused"] == {}
        assert len(accepted) >= 1000
        assert tally["replaced"] >= RENEWED // 2  # the CA said of a few that they were replaced already
        assert min(waited.values()) >= 50, waited
        assert reached >= 0.9
        assert set(tally["faults"]) == {"429", "503", *(rule["do"] for rule in FAULTS)} - {"answer"}
        assert ca.lab.left_over() == {}


def test_workers_that_are_killed_in_the_middle_send_no_burst_afterwards(tmp_path):
    """Whatever they had reserved, or had sent without reading the answer."""
    shared = in_domains(20, 20, 20, 20, 20)
    same = same_names(FEW_SETS, ASKERS)
    with limited.running(tmp_path, FEW_LIMITS, accounts=1 + ASKERS) as ca:
        ca.proxy.change(faults=FAULTS[:-1])
        for name, account in limited.mixed(shared, same, alone(FEW - len(shared) - len(same))):
            ca.request(name, account)
        for orders in KILLED_AT:
            until(lambda orders=orders: len(ca.proxy.accepted) >= orders, 300, f"the {orders}th order", every=0.1)
            ca.stop_workers()
            ca.start_workers()
        ca.until_issued(FEW, 600)
        waited, tally = ca.waited(), ca.proxy.tally
        print(f"waited: {waited}; {tally}; {limited.pace(ca.proxy.accepted, FEW_LIMITS):.0%} of what the limits allow")

        assert tally["refused"] == {}
        assert min(waited.values()) > 0, waited
        assert ca.lab.left_over() == {}
