"""The CA moves 200 windows into the past. Each certificate is replaced once, with `replaces`.

Debian's Pebble has no renewal information. The proxy in front of it has, and judges each `replaces`
(RFC 9773).
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
WAKE = (
    "UPDATE issuance_renewalinfo SET wake_at = now() - interval '1 minute'"
    " WHERE wake_at IS NOT NULL RETURNING id"
)


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


def test_200_windows_in_the_past_make_200_orders_with_replaces(
    tmp_path,
):
    with limited.running(tmp_path, LIMITS, **SETTINGS) as ca:
        first = issue(ca, CERTIFICATES)
        assert len(first) == CERTIFICATES
        assert ca.site.states() == {"issued": CERTIFICATES}  # windows in the future renew nothing
        replace(ca, CERTIFICATES)
        orders = ca.proxy.accepted[CERTIFICATES:]
        tally = ca.proxy.tally
        print(tally)

        assert sorted(order["replaces"] for order in orders) == sorted(first)
        assert [order["charged"] for order in orders] == [[]] * CERTIFICATES
        assert (tally["replaced"], tally["refused"], tally["objected"]) == (CERTIFICATES, {}, {})
        replaced = [row["certificate_id"] for row in ca.site.rows(VERSIONS)]
        assert sorted(replaced) == sorted([*first.values(), *first.values()])
        assert ca.lab.left_over() == {}


def test_after_already_replaced_the_order_is_sent_without_replaces(tmp_path):
    few = 10
    refusals = 4
    with limited.running(tmp_path, LIMITS, **SETTINGS) as ca:
        first = issue(ca, few)
        ca.proxy.change(faults=[{"do": "already_replaced", "times": refusals}])
        replace(ca, few)
        orders = ca.proxy.accepted[few:]

        assert len(orders) == few
        assert len([order for order in orders if order["replaces"]]) == few - refusals
        assert {order["replaces"] for order in orders} <= {"", *first}
        assert (ca.proxy.tally["refused"], ca.proxy.tally["objected"]) == ({}, {})
