"""The CA moves two hundred windows into the past: each certificate is replaced, once, by an order
that says so.

Debian's Pebble has no renewal information; the proxy before it has, and judges each `replaces` (RFC
9773).
"""

import pytest

from tests.e2e import limited, processes
from tests.e2e.limited import LEFT_ALONE, ZONE, Limited
from tests.e2e.processes import until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(processes.missing()), reason=f"needs Debian's {processes.missing()} (apt-get install)"
    ),
]

CERTIFICATES = 200
# So few tokens are left after the first orders that others which cost any would wait for hours, or
# be refused.
LIMITS = {
    "account": [CERTIFICATES + 10, 3600],
    "domain": [2, 36000],
    "set": [2, 36000],
    "failures": [5, 720],
}
PAST = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]
SETTINGS = {**LEFT_ALONE, "SCAN_EVERY": "2"}

VERSIONS = "SELECT certificate_id, ari_id FROM issuance_certificateversion ORDER BY id"
POLLED = "SELECT count(*) FROM issuance_renewalinfo WHERE window_start IS NOT NULL"
WAKE = "UPDATE issuance_renewalinfo SET wake_at = now() - interval '1 minute' WHERE wake_at IS NOT NULL RETURNING id"


def issue(ca: Limited, count: int) -> dict[str, int]:
    """So many certificates with their windows known; {ari_id: certificate}."""
    for number in range(count):
        ca.request(f"www.name{number}.{ZONE}")
    ca.until_issued(count, 600)
    ca.site.rows(WAKE)  # polls are hours apart
    until(lambda: ca.site.rows(POLLED)[0]["count"] == count, 120, "the last window", every=0.5)
    return {row["ari_id"]: row["certificate_id"] for row in ca.site.rows(VERSIONS)}


def replace(ca: Limited, count: int) -> None:
    """The CA wants all of them replaced."""
    ca.proxy.change(windows={"*": PAST})
    ca.site.rows(WAKE)
    ca.until_issued(2 * count, 600)


def test_two_hundred_windows_in_the_past_are_two_hundred_orders_that_say_what_they_replace(
    tmp_path,
):
    with limited.running(tmp_path, LIMITS, **SETTINGS) as ca:
        first = issue(ca, CERTIFICATES)
        assert len(first) == CERTIFICATES
        assert ca.site.states() == {"issued": CERTIFICATES}  # windows that lie ahead renew nothing
        replace(ca, CERTIFICATES)
        orders, tally = ca.proxy.accepted[CERTIFICATES:], ca.proxy.tally
        print(tally)

        assert sorted(order["replaces"] for order in orders) == sorted(first)
        assert [order["charged"] for order in orders] == [[]] * CERTIFICATES
        assert (tally["replaced"], tally["refused"], tally["objected"]) == (CERTIFICATES, {}, {})
        replaced = [row["certificate_id"] for row in ca.site.rows(VERSIONS)]
        assert sorted(replaced) == sorted([*first.values(), *first.values()])
        assert ca.lab.left_over() == {}


def test_what_the_ca_calls_replaced_already_is_renewed_without_saying_so(tmp_path):
    few, refusals = 10, 4
    with limited.running(tmp_path, LIMITS, **SETTINGS) as ca:
        first = issue(ca, few)
        ca.proxy.change(faults=[{"do": "already_replaced", "times": refusals}])
        replace(ca, few)
        orders = ca.proxy.accepted[few:]

        assert len(orders) == few
        assert len([order for order in orders if order["replaces"]]) == few - refusals
        assert {order["replaces"] for order in orders} <= {"", *first}
        assert (ca.proxy.tally["refused"], ca.proxy.tally["objected"]) == ({}, {})
