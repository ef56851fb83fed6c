"""A DNS API that takes connections and never answers delays nobody else."""

import socket

import pytest

from tests.e2e import pebble, processes
from tests.e2e.processes import until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(processes.missing()), reason=f"needs Debian's {processes.missing()} (apt-get install)"
    ),
]

DEAD = 20
HEALTHY = 5
TURN = 5  # seconds, as in processes.SHORT_TURNS


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_dead_dns_api_delays_no_other(pool, tmp_path):
    with (
        pebble.running(tmp_path) as lab,
        processes.running(lab, pool=pool, concurrency=4) as site,
        socket.create_server(("127.0.0.1", 0), backlog=128) as silent,
    ):
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        dead = site.call("POST", "dns-providers", {"provider": "httpreq", "endpoint": endpoint})
        account, credential = site.account(lab), site.credential(lab)
        for number in range(DEAD):
            site.request(account, int(dead["id"]), f"dead{number}.{lab.zone}")
        until(lambda: site.states().get("ordered"), 60, "an attempt that needs the dead API")
        for number in range(HEALTHY):
            site.request(account, credential, f"well{number}.{lab.zone}")
        until(lambda: site.states().get("issued") == HEALTHY, 12 * TURN, "the healthy ones")
        in_trouble = site.rows(
            "SELECT waits_for FROM issuance_issuance WHERE state <> 'issued' AND waits_for <> ''"
        )
        assert in_trouble
        assert sum(site.states().values()) == DEAD + HEALTHY
        # A third one may hold its row for the moment in which it finds the lane full.
        held = "SELECT id FROM issuance_issuance WHERE holder <> ''"
        until(lambda: len(site.rows(held)) <= 2, TURN, "two threads at most", every=0.05)
        assert [line for line in site.complaints() if '"step.failed"' in line] == []
