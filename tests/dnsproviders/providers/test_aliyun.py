"""The Aliyun adapter against a small Alidns that keeps records and checks every signature."""

from datetime import UTC, datetime
from typing import Any

import pytest
import requests
import responses

from certctrl import clock
from certctrl.turns import Wait
from dnsclient.nameservers import Zone
from dnsproviders.base import ErrorKind, ProviderError
from dnsproviders.providers import aliyun
from dnsproviders.providers.aliyun import CODES, Aliyun
from tests.dnsproviders.making import APEX, WILDCARD, answer_always, provider_of, record_of
from tests.dnsproviders.smallaliyun import API, KEY, KEY_ID, ZONE, FakeAlidns, error

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _no_network() -> Any:
    with responses.mock:
        yield


@pytest.fixture
def fake() -> FakeAlidns:
    return FakeAlidns()


def provider() -> Aliyun:
    found: Aliyun = provider_of(Aliyun, {"access_key_secret": KEY}, access_key_id=KEY_ID)
    return found


def test_the_signature_is_that_of_the_vendors_example() -> None:
    """help/en/sdk/product-overview/v3-request-structure-and-signature, "Fixed parameter values"."""
    headers = {
        "host": "ecs.cn-shanghai.aliyuncs.com",
        "x-acs-action": "RunInstances",
        "x-acs-content-sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "x-acs-date": "2023-10-26T10:22:32Z",
        "x-acs-signature-nonce": "3156853299f313e23d1673dc12e1703d",
        "x-acs-version": "2014-05-26",
    }
    query = aliyun.canonical_query(
        {
            "RegionId": "cn-shanghai",
            "ImageId": "win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd",
        }
    )
    made = aliyun.authorization("POST", query, headers, "YourAccessKeyId", "YourAccessKeySecret")
    assert made.endswith(
        "Signature=06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"
    )


def test_a_query_is_encoded_as_rfc_3986_says() -> None:
    assert (
        aliyun.canonical_query({"b": "v=a b*c~d/e", "A": "ü"}) == "A=%C3%BC&b=v%3Da%20b%2Ac~d%2Fe"
    )


def test_no_two_requests_share_a_nonce_and_the_date_is_ours(
    fake: FakeAlidns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "now", lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    provider().present(record_of(ZONE, APEX))
    provider().present(record_of(ZONE, WILDCARD))
    assert len(set(fake.nonces)) == len(fake.nonces) == 2
    assert responses.calls[0].request.headers["x-acs-date"] == "2026-01-02T03:04:05Z"


def test_two_values_live_at_one_name_and_each_is_removed_alone(fake: FakeAlidns) -> None:
    provider().present(record_of(ZONE, APEX))
    provider().present(record_of(ZONE, WILDCARD))
    assert fake.values() == [APEX, WILDCARD]
    assert provider().cleanup(record_of(ZONE, APEX)) == 1
    assert fake.values() == [WILDCARD]


def test_presenting_twice_writes_once_even_when_the_listing_lags(fake: FakeAlidns) -> None:
    provider().present(record_of(ZONE, APEX))
    provider().present(record_of(ZONE, APEX))
    fake.hidden_from_listing = True
    provider().present(record_of(ZONE, APEX))
    assert fake.values() == [APEX]


def test_cleaning_up_what_is_absent_is_success_and_counts_none(fake: FakeAlidns) -> None:
    assert provider().cleanup(record_of(ZONE, APEX)) == 0


def test_a_record_that_vanishes_between_find_and_delete_counts_none(
    fake: FakeAlidns, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider().present(record_of(ZONE, APEX))
    gone = error(400, "DomainRecordNotBelongToUser", "gone")
    monkeypatch.setattr(fake, "DeleteDomainRecord", lambda params: gone)
    assert provider().cleanup(record_of(ZONE, APEX)) == 0


def test_a_name_that_idna_does_not_know_is_somebody_elses(fake: FakeAlidns) -> None:
    provider().present(record_of(ZONE, APEX))
    provider().present(record_of(ZONE, APEX, name=f"_acme-challenge.\N{PILE OF POO}.{ZONE}"))
    assert provider().cleanup(record_of(ZONE, APEX)) == 1


def test_the_same_value_under_a_longer_name_stays(fake: FakeAlidns) -> None:
    provider().present(record_of(ZONE, APEX, name="_acme-challenge.www.example.com"))
    assert provider().cleanup(record_of(ZONE, APEX, name="_acme-challenge.example.com")) == 0
    assert fake.values() == [APEX]


def test_a_record_on_a_later_page_is_found(
    fake: FakeAlidns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aliyun, "PAGE", 2)
    others = [
        {"RecordId": f"r{n}", "RR": "_acme-challenge", "Type": "TXT", "Value": f"v{n}"}
        for n in range(5)
    ]
    fake.records = [
        *others,
        {"RecordId": "r9", "RR": "_acme-challenge", "Type": "TXT", "Value": APEX},
    ]
    assert provider().cleanup(record_of(ZONE, APEX)) == 1
    assert fake.records == others


@pytest.mark.parametrize(
    ("name", "zone", "rr"),
    [
        ("_acme-challenge.www.example.com", "example.com", "_acme-challenge.www"),
        ("example.com", "example.com", "@"),
        ("_acme-challenge.xn--bcher-kva.example", "bücher.example", "_acme-challenge"),
    ],
)
def test_the_name_is_written_relative_to_its_zone(
    fake: FakeAlidns, name: str, zone: str, rr: str
) -> None:
    fake.zones.append(zone)
    provider().present(record_of(zone, APEX, name=name))
    assert (fake.records[0]["RR"], fake.records[0]["DomainName"]) == (rr, zone)


@pytest.mark.parametrize(("asked", "sent"), [(60, "600"), (1800, "1800")])
def test_the_ttl_is_at_least_what_the_free_plan_takes(
    fake: FakeAlidns, asked: int, sent: str
) -> None:
    provider().present(record_of(ZONE, APEX, ttl=asked))
    assert fake.records[0]["TTL"] == sent


def test_the_longest_domain_that_holds_the_name_is_the_zone(fake: FakeAlidns) -> None:
    assert provider().zone_of("_acme-challenge.www.deep.example.com") == "deep.example.com"
    assert provider().zone_of("_acme-challenge.www.example.com") == "example.com"


def test_an_internationalised_domain_is_found_by_either_spelling(fake: FakeAlidns) -> None:
    fake.zones = ["bücher.example"]
    assert provider().zone_of("_acme-challenge.www.xn--bcher-kva.example") == "bücher.example"


def test_a_domain_that_resolvers_do_not_see_as_a_zone_is_doubted() -> None:
    name = "_acme-challenge.www.deep.example.com"
    assert "resolvers see it in the zone example.com" in provider().doubt(
        "deep.example.com", name, Zone("example.com")
    )
    assert provider().doubt("deep.example.com", name, Zone("deep.example.com")) == ""
    assert provider().doubt("bücher.example", name, Zone("xn--bcher-kva.example")) == ""


def test_an_unseen_domain_is_permanent_and_the_message_lists_those_that_are_seen(
    fake: FakeAlidns,
) -> None:
    with pytest.raises(ProviderError, match=r"it sees example\.com, deep\.example\.com") as caught:
        provider().zone_of("_acme-challenge.notexample.com")
    assert (caught.value.code, caught.value.permanent) == ("dns_zone_not_found", True)


def test_a_key_without_the_right_to_the_domain_is_refused_with_the_vendors_words(
    fake: FakeAlidns,
) -> None:
    fake.forbidden = {"DescribeDomainRecords"}
    with pytest.raises(ProviderError, match=r"not authorized.*Forbidden\.RAM") as caught:
        provider().zone_of("_acme-challenge.example.com")
    assert (caught.value.code, caught.value.permanent) == ("dns_credential_refused", True)


def test_a_check_reads_and_writes_nothing(fake: FakeAlidns) -> None:
    provider().check()
    assert [call.request.headers["x-acs-action"] for call in responses.calls] == ["DescribeDomains"]


def test_a_check_of_an_account_without_domains_says_so(fake: FakeAlidns) -> None:
    fake.zones = []
    with pytest.raises(ProviderError, match="no domain"):
        provider().check()


@pytest.mark.parametrize(
    ("answer", "code", "permanent"),
    [
        ({"status": 401, "body": ""}, "dns_credential_refused", True),
        (
            {"status": 404, "body": error(404, "InvalidAccessKeyId.NotFound", "not found")[2]},
            "dns_credential_refused",
            True,
        ),
        (
            {"status": 400, "body": error(400, "SignatureDoesNotMatch", f"not {KEY}")[2]},
            "dns_credential_refused",
            True,
        ),
        ({"status": 429, "body": "", "headers": {"Retry-After": "9"}}, "dns_rate_limited", False),
        (
            {"status": 503, "body": error(503, "ServiceUnavailable", "later")[2]},
            "dns_refused",
            False,
        ),
        ({"status": 200, "body": "<html></html>"}, "dns_bad_answer", False),
        ({"status": 200, "body": ""}, "dns_bad_answer", False),
        ({"status": 200, "body": "{}"}, "dns_bad_answer", False),
        ({"body": requests.ConnectionError(KEY)}, "dns_unreachable", False),
    ],
)
def test_ways_to_fail_are_told_apart_and_never_show_the_key(
    answer: dict[str, Any], code: str, permanent: bool
) -> None:
    answer_always(API, **answer)
    with pytest.raises(ProviderError) as caught:
        provider().present(record_of(ZONE, APEX))
    assert (caught.value.code, caught.value.permanent) == (code, permanent)
    assert caught.value.what.startswith("Aliyun")
    assert KEY not in repr(caught.value) + caught.value.what
    if answer.get("status") == 429:
        assert caught.value.retry_after == 9


@pytest.mark.parametrize(("code", "kind"), CODES.items())
def test_every_documented_error_has_its_class_and_its_words_are_shown(
    code: str, kind: ErrorKind
) -> None:
    answer_always(API, status=400, body=error(400, code, "As documented.")[2])
    with pytest.raises(ProviderError, match=rf"As documented. \({code}\)") as caught:
        provider().present(record_of(ZONE, APEX))
    assert (caught.value.code, caught.value.permanent) == kind


def test_a_label_that_it_does_not_take_is_refused_for_good_with_what_to_do(
    fake: FakeAlidns,
) -> None:
    fake.refuses = lambda action: "SubDomainInvalid.RR" if action == "AddDomainRecord" else ""
    with pytest.raises(ProviderError, match="takes no such name") as caught:
        provider().present(record_of(ZONE, APEX))
    assert (caught.value.code, caught.value.permanent) == ("dns_refused", True)


@pytest.mark.parametrize(
    "code", ["Throttling.User", "Throttling.Api", "Throttling", "LastOperationNotFinished"]
)
def test_a_call_that_came_too_soon_is_made_again_after_a_second(
    fake: FakeAlidns, code: str
) -> None:
    fake.refuses = lambda action: code if action == "AddDomainRecord" else ""
    with pytest.raises(Wait) as caught:
        provider().present(record_of(ZONE, APEX))
    assert (caught.value.seconds, caught.value.imposed) == (1.0, True)
    assert code in caught.value.what
    assert KEY not in caught.value.what


@pytest.mark.parametrize("code", ["Throttling.User", "LastOperationNotFinished"])
@pytest.mark.parametrize(("asked", "waited"), [("0", 1.0), ("9", 9.0), ("999999", 3600.0)])
def test_a_call_that_came_too_soon_waits_as_long_as_the_answer_says(
    code: str, asked: str, waited: float
) -> None:
    body = error(400, code, "Refused.")[2]
    answer_always(API, status=400, body=body, headers={"Retry-After": asked})
    with pytest.raises(Wait) as caught:
        provider().present(record_of(ZONE, APEX))
    assert caught.value.seconds == waited


def test_a_change_is_one_call_and_no_name_with_an_underscore_is_asked_for(fake: FakeAlidns) -> None:
    provider().present(record_of(ZONE, APEX))
    provider().zone_of("_acme-challenge.www.example.com")
    assert fake.asked == ["AddDomainRecord", "DescribeDomainRecords", "DescribeDomainRecords"]


def test_the_key_never_leaves(fake: FakeAlidns) -> None:
    provider().present(record_of(ZONE, APEX))
    for call in responses.calls:
        assert KEY not in str(call.request.url) + str(call.request.headers) + str(call.request.body)
