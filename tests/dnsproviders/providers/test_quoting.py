"""The words of a provider are quoted without the secrets that we sent."""

import base64

import requests

from certctrl.log import Secret
from dnsproviders.models import DnsCredential
from dnsproviders.providers.httpreq import HttpReq

PASSWORD = "S3cretPw-httpreq"


def quoted(words: str) -> str:
    credential = DnsCredential(public={"endpoint": "https://dns.example.com", "username": "u"})
    return HttpReq(credential, {"password": Secret(PASSWORD)}, requests.Session()).quote(words)


def test_a_secret_is_masked():
    assert PASSWORD not in quoted(f"wrong password {PASSWORD}")


def test_a_request_that_is_echoed_shows_no_basic_credential():
    basic = base64.b64encode(f"u:{PASSWORD}".encode()).decode()
    assert basic not in quoted(f"you sent Authorization: Basic {basic}")
