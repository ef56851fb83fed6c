"""The httpreq provider against a service of the twenty lines that its page asks for."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
import responses

from certctrl import clock
from dnsproviders.base import ProviderError
from dnsproviders.providers.httpreq import HttpReq, checked_endpoint
from tests.dnsproviders.making import APEX, WILDCARD, answer_always, provider_of, record_of

ENDPOINT = "https://dns.example.net/acme"
PASSWORD = "pässword-never-shown"
NAME = "_acme-challenge.example.com"


class FakeService:
    def __init__(self) -> None:
        self.records: set[tuple[str, str]] = set()
        self.says_404_for_absent = False
        responses.add_callback(responses.POST, f"{ENDPOINT}/present", self.present)
        responses.add_callback(responses.POST, f"{ENDPOINT}/cleanup", self.cleanup)
        responses.add(responses.GET, ENDPOINT, status=405, body="method not allowed")

    def present(self, request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        self.records.add(_of(request))
        return 200, {"Content-Type": "text/html"}, ""

    def cleanup(self, request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        absent = _of(request) not in self.records
        self.records.discard(_of(request))
        return 404 if absent and self.says_404_for_absent else 204, {}, ""


def _of(request: requests.PreparedRequest) -> tuple[str, str]:
    body = json.loads(request.body or "")
    assert set(body) == {"fqdn", "value"}
    return body["fqdn"], body["value"]


@pytest.fixture(autouse=True)
def _no_network() -> Any:
    with responses.mock:
        yield


@pytest.fixture
def service() -> FakeService:
    return FakeService()


def httpreq(**public: str) -> HttpReq:
    found: HttpReq = provider_of(
        HttpReq, {"password": PASSWORD}, endpoint=ENDPOINT, username="jürgen", **public
    )
    return found


def test_two_values_live_at_one_name_and_each_is_removed_alone(service: FakeService) -> None:
    httpreq().present(record_of("", APEX))
    httpreq().present(record_of("", WILDCARD))
    assert service.records == {(f"{NAME}.", APEX), (f"{NAME}.", WILDCARD)}
    assert httpreq().cleanup(record_of("", APEX)) == 1
    assert service.records == {(f"{NAME}.", WILDCARD)}


def test_presenting_twice_is_success(service: FakeService) -> None:
    for _ in range(2):
        httpreq().present(record_of("", APEX))
    assert service.records == {(f"{NAME}.", APEX)}


def test_a_cleanup_that_is_answered_404_found_nothing(service: FakeService) -> None:
    service.says_404_for_absent = True
    assert httpreq().cleanup(record_of("", APEX)) == 0


@pytest.mark.parametrize("body", ["", "\n", '{"error": "no such record"}'])
def test_a_404_of_the_services_own_says_that_the_record_is_absent(body: str) -> None:
    answer_always(ENDPOINT, status=404, body=body)
    assert httpreq().cleanup(record_of("", APEX)) == 0


@pytest.mark.parametrize("body", ["<html><h1>404 Not Found</h1></html>", "404 page not found\n"])
def test_a_404_of_a_web_server_says_nothing_about_the_record(body: str) -> None:
    answer_always(ENDPOINT, status=404, body=body)
    with pytest.raises(ProviderError) as caught:
        httpreq().cleanup(record_of("", APEX))
    assert (caught.value.code, caught.value.permanent) == ("dns_refused", False)


def test_the_zone_is_the_name_itself() -> None:
    assert httpreq().zone_of(NAME) == NAME


def test_user_and_password_are_sent_in_utf_8(service: FakeService) -> None:
    httpreq().present(record_of("", APEX))
    sent = responses.calls[0].request.headers["Authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent).decode() == f"jürgen:{PASSWORD}"


def test_without_a_password_nothing_is_sent(service: FakeService) -> None:
    provider_of(HttpReq, {}, endpoint=ENDPOINT).present(record_of("", APEX))
    assert "Authorization" not in responses.calls[0].request.headers


def test_a_check_writes_nothing_and_accepts_any_answer(
    service: FakeService,
) -> None:
    httpreq().check()
    assert [call.request.method for call in responses.calls] == ["GET"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_check_with_a_wrong_password_is_refused(status: int) -> None:
    answer_always(ENDPOINT, status=status)
    with pytest.raises(ProviderError) as caught:
        httpreq().check()
    assert (caught.value.code, caught.value.permanent) == ("dns_credential_refused", True)


@pytest.mark.parametrize(
    ("answer", "code", "permanent"),
    [
        ({"status": 401}, "dns_credential_refused", True),
        ({"status": 403, "body": f"not with {PASSWORD}"}, "dns_credential_refused", True),
        (
            {"status": 429, "headers": {"Retry-After": "Fri, 02 Jan 2026 03:05:05 GMT"}},
            "dns_rate_limited",
            False,
        ),
        ({"status": 500, "body": "zone is locked"}, "dns_refused", False),
        ({"status": 404, "body": ""}, "dns_refused", False),
        ({"status": 400, "body": "no such zone"}, "dns_refused", False),
        ({"status": 405, "body": "method not allowed"}, "dns_refused", True),
        ({"status": 501, "body": ""}, "dns_refused", True),
        ({"status": 200, "body": "  <!doctype html><form>Log in</form>"}, "dns_bad_answer", False),
        (
            {"status": 301, "headers": {"Location": "https://other.example/"}},
            "dns_bad_answer",
            False,
        ),
        ({"body": requests.ConnectionError(PASSWORD)}, "dns_unreachable", False),
    ],
)
def test_failures_have_different_codes_and_never_show_the_password(
    answer: dict[str, Any], code: str, permanent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "now", lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    answer_always(ENDPOINT, **answer)
    with pytest.raises(ProviderError) as caught:
        httpreq().present(record_of("", APEX))
    assert (caught.value.code, caught.value.permanent) == (code, permanent)
    assert PASSWORD not in repr(caught.value) + caught.value.what
    if answer.get("body") == "zone is locked":
        assert "zone is locked" in caught.value.what
    if code == "dns_rate_limited":
        assert caught.value.retry_after == 60


def test_a_redirect_is_not_followed_since_a_post_would_become_a_get() -> None:
    answer_always(ENDPOINT, status=302, headers={"Location": "https://other.example/"})
    with pytest.raises(ProviderError, match="set it to the final address"):
        httpreq().present(record_of("", APEX))
    assert len(responses.calls) == 1


@pytest.mark.parametrize(
    "good", ["http://127.0.0.1:8080", "https://dns.example.net/acme/", "https://[::1]:1/x"]
)
def test_an_endpoint_is_an_http_url(good: str) -> None:
    assert checked_endpoint(good) == good.rstrip("/")


@pytest.mark.parametrize(
    "bad",
    ["ftp://x", "https://", "dns.example.net", "https://u:p@x", "https://x/?token=1",
     "https://x/#a", "https://x:99999", "https://x y/", "https://bücher.example", "https://[::1", "https://a\\b/"],
)  # fmt: skip
def test_any_other_endpoint_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="must"):
        checked_endpoint(bad)
