"""Fifty certificates at once, at a strict Pebble that validates slowly and refuses many nonces."""

from concurrent.futures import ThreadPoolExecutor

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

CERTIFICATES = 50
WITH_WILDCARD = 10


def test_50_certificates_at_once_are_issued_and_the_zone_is_clean_after(tmp_path):
    with (
        pebble.running(tmp_path, nonce_reject=20, validation_delay=True) as lab,
        processes.running(lab, concurrency=8, LEASE="180", TURN="80", RESEND="120") as site,
    ):
        ids = (site.account(lab), site.credential(lab))
        apexes = [f"crowd{number}.{lab.zone}" for number in range(CERTIFICATES)]
        wanted = [
            [name, f"*.{name}"] if at < WITH_WILDCARD else [name] for at, name in enumerate(apexes)
        ]
        with ThreadPoolExecutor(CERTIFICATES) as people:
            list(people.map(lambda names: site.request(*ids, *names), wanted))
        until(lambda: site.states() == {"issued": CERTIFICATES}, 120, "the last certificate")
        until(lambda: not site.uncleaned(), 60, "the last cleanup")

        stored = site.rows(
            "SELECT certificate_id, count(*) FROM issuance_certificateversion"
            " GROUP BY certificate_id"
        )
        assert [row["count"] for row in stored] == [1] * CERTIFICATES
        assert (
            len(site.rows("SELECT id FROM dnsproviders_txtrecord")) == CERTIFICATES + WITH_WILDCARD
        )
        assert lab.left_over() == {}
        assert site.complaints() == []
