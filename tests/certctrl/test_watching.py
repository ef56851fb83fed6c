"""Calls to a DNS API are handed to the function that keeps them."""

import pytest

from certctrl import watching

CALL = watching.ApiCall("Cloudflare", 1, "GET", "https://api.test/zones", 0.0)


def test_a_call_is_told_inside_the_block_alone():
    told = []
    with watching.by(told.append):
        watching.tell(CALL)
    watching.tell(CALL)
    assert told == [CALL]


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret@dns.test:8443/acme?token=secret#secret",
        "https://dns.test:8443/acme?AccessKeyId=secret",
    ],
)
def test_a_bare_url_has_no_secret(url):
    assert watching.bare(url) == "https://dns.test:8443/acme"
