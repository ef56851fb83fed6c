"""The Cloudflare adapter against a small Cloudflare that keeps records."""

from typing import Any

import pytest
import requests
import responses

from dnsclient.nameservers import Zone
from dnsproviders.base import ErrorKind, ProviderError
from dnsproviders.models import ApiBucket
from dnsproviders.providers.cloudflare import CODES, Cloudflare
from tests.dnsproviders.making import APEX, WILDCARD, answer_always, provider_of, record_of
from tests.dnsproviders.smallcloudflare import API, TOKEN, ZONE, FakeCloudflare, error

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _no_network() -> Any:
    with responses.mock:
        yield


@pytest.fixture
def fake() -> FakeCloudflare:
    return FakeCloudflare()


def cloudflare(**public: Any) -> Cloudflare:
    found: Cloudflare = provider_of(Cloudflare, {"api_token": TOKEN}, **public)
    return found


def test_two_values_live_at_one_name_and_each_is_removed_alone(fake: FakeCloudflare) -> None:
    provider = cloudflare()
    provider.present(record_of(ZONE, APEX))
    provider.present(record_of(ZONE, WILDCARD))
    assert fake.contents() == [f'"{APEX}"', f'"{WILDCARD}"']
    assert provider.cleanup(record_of(ZONE, APEX)) == 1
    assert fake.contents() == [f'"{WILDCARD}"']


def test_presenting_twice_writes_once(fake: FakeCloudflare) -> None:
    for _ in range(2):
        cloudflare().present(record_of(ZONE, APEX))
    assert fake.contents() == [f'"{APEX}"']
    assert len([call for call in responses.calls if call.request.method == "POST"]) == 1


def test_a_record_that_the_listing_does_not_show_yet_is_there_already(fake: FakeCloudflare) -> None:
    cloudflare().present(record_of(ZONE, APEX))
    fake.hidden_from_listing = True
    cloudflare().present(record_of(ZONE, APEX))
    assert fake.contents() == [f'"{APEX}"']


def test_cleaning_up_what_is_absent_is_success_and_counts_none(fake: FakeCloudflare) -> None:
    assert cloudflare().cleanup(record_of(ZONE, APEX)) == 0


def test_a_record_that_vanishes_between_find_and_delete_counts_none(fake: FakeCloudflare) -> None:
    cloudflare().present(record_of(ZONE, APEX))
    fake.delete = lambda record_id: error(404, 81044, "Record does not exist.")  # type: ignore[method-assign]
    assert cloudflare().cleanup(record_of(ZONE, APEX)) == 0


def test_cleanup_finds_values_without_quotes_and_on_later_pages(fake: FakeCloudflare) -> None:
    name = "_acme-challenge.example.com"
    fake.records = [
        {"id": f"r{n}", "type": "TXT", "name": name, "content": f"other{n}"} for n in range(7)
    ]
    fake.records.append({"id": "r7", "type": "TXT", "name": name, "content": APEX})
    fake.page_size = 3
    assert cloudflare().cleanup(record_of(ZONE, APEX)) == 1
    assert fake.contents() == [f"other{n}" for n in range(7)]


@pytest.mark.parametrize(("asked", "sent"), [(5, 60), (60, 60), (300, 300), (1, 1)])
def test_the_ttl_is_at_least_sixty_seconds_or_automatic(
    fake: FakeCloudflare, asked: int, sent: int
) -> None:
    cloudflare().present(record_of(ZONE, APEX, ttl=asked))
    assert fake.records[0]["ttl"] == sent


def test_the_longest_zone_that_holds_the_name_is_found(fake: FakeCloudflare) -> None:
    assert cloudflare().zone_of("_acme-challenge.www.deep.example.com") == "sub"
    assert cloudflare().zone_of("_acme-challenge.www.example.com") == ZONE


def test_the_name_of_a_zone_is_known_once_it_was_shown(fake: FakeCloudflare) -> None:
    provider = cloudflare()
    assert provider.zone_name(ZONE) == ""
    assert provider.zone_name(provider.zone_of("_acme-challenge.www.example.com")) == "example.com"


def test_an_internationalised_zone_is_found_by_its_a_label(fake: FakeCloudflare) -> None:
    assert cloudflare().zone_of("_acme-challenge.xn--bcher-kva.example") == "idn"


def test_an_unseen_zone_is_permanent_and_the_seen_ones_are_listed(
    fake: FakeCloudflare,
) -> None:
    with pytest.raises(ProviderError) as caught:
        cloudflare().zone_of("_acme-challenge.notexample.com")
    assert (caught.value.code, caught.value.permanent) == ("dns_zone_not_found", True)
    assert "example.com, deep.example.com, bücher.example" in caught.value.what


def test_a_given_zone_serves_the_names_inside_it(fake: FakeCloudflare) -> None:
    assert cloudflare(zone_id=ZONE).zone_of("_acme-challenge.www.example.com") == ZONE


def test_a_name_outside_of_the_given_zone_is_refused_by_the_zones_name(
    fake: FakeCloudflare,
) -> None:
    with pytest.raises(
        ProviderError, match=r"notexample\.com is not inside example\.com"
    ) as caught:
        cloudflare(zone_id=ZONE).zone_of("_acme-challenge.notexample.com")
    assert (caught.value.code, caught.value.permanent) == ("dns_zone_not_found", True)


def test_a_given_zone_is_trusted_where_the_token_cannot_read_zones(fake: FakeCloudflare) -> None:
    fake.zone_reading = False
    assert cloudflare(zone_id=ZONE).zone_of("_acme-challenge.example.com") == ZONE


def test_a_bad_token_is_not_taken_for_a_zone_that_does_not_exist() -> None:
    answer_always(API, status=400, body=CHAINED)
    with pytest.raises(ProviderError, match="Invalid format for Authorization header") as caught:
        cloudflare(zone_id=ZONE).zone_of("_acme-challenge.example.com")
    assert caught.value.code == "dns_credential_refused"


def test_a_given_zone_that_does_not_exist_is_not_found(fake: FakeCloudflare) -> None:
    with pytest.raises(ProviderError, match="nowhere") as caught:
        cloudflare(zone_id="nowhere").zone_of("_acme-challenge.example.com")
    assert caught.value.code == "dns_zone_not_found"


def test_without_the_zone_read_permission_the_error_names_it(
    fake: FakeCloudflare,
) -> None:
    fake.zone_reading = False
    with pytest.raises(ProviderError, match="Zone / Zone / Read") as caught:
        cloudflare().zone_of("_acme-challenge.example.com")
    assert (caught.value.code, caught.value.permanent) == ("dns_credential_refused", True)


def test_a_check_reads_and_writes_nothing(fake: FakeCloudflare) -> None:
    cloudflare().check()
    cloudflare(zone_id=ZONE).check()
    assert {call.request.method for call in responses.calls} == {"GET"}


def test_a_check_of_a_token_that_sees_no_zone_says_so(fake: FakeCloudflare) -> None:
    fake.zones = {}
    with pytest.raises(ProviderError, match="shows it no zone"):
        cloudflare().check()


@pytest.mark.parametrize(
    ("answer", "code", "permanent"),
    [
        (
            {"status": 401, "body": error(401, 10000, "Authentication error")[2]},
            "dns_credential_refused",
            True,
        ),
        (
            {"status": 403, "body": error(403, 10000, "Authentication error")[2]},
            "dns_credential_refused",
            True,
        ),
        (
            {"status": 400, "body": error(400, 6003, "Invalid request headers")[2]},
            "dns_credential_refused",
            True,
        ),
        ({"status": 429, "body": "", "headers": {"Retry-After": "17"}}, "dns_rate_limited", False),
        ({"status": 500, "body": error(500, 1, "Internal")[2]}, "dns_refused", False),
        (
            {"status": 200, "body": "<!DOCTYPE html><title>Just a moment</title>"},
            "dns_bad_answer",
            False,
        ),
        ({"status": 403, "body": "<html>Just a moment</html>"}, "dns_bad_answer", False),
        ({"status": 200, "body": ""}, "dns_bad_answer", False),
        (
            {"status": 200, "body": '{"success": true, "result": [{"unknown": 1}]}'},
            "dns_bad_answer",
            False,
        ),
        ({"status": 200, "body": '{"success": true}'}, "dns_bad_answer", False),
        ({"status": 200, "body": "[" * 100_000}, "dns_bad_answer", False),
        (
            {"status": 302, "headers": {"Location": "https://elsewhere.example/"}},
            "dns_bad_answer",
            False,
        ),
        ({"body": requests.ConnectionError(f"refused {TOKEN}")}, "dns_unreachable", False),
        ({"body": requests.ReadTimeout()}, "dns_unreachable", False),
    ],
)
def test_failures_have_different_codes_and_never_show_the_token(
    answer: dict[str, Any], code: str, permanent: bool
) -> None:
    answer_always(API, **answer)
    with pytest.raises(ProviderError) as caught:
        cloudflare().present(record_of(ZONE, APEX))
    assert (caught.value.code, caught.value.permanent) == (code, permanent)
    assert caught.value.what.startswith("Cloudflare")
    assert TOKEN not in repr(caught.value) + caught.value.what + str(caught.value.__cause__)
    if code == "dns_rate_limited":
        assert caught.value.retry_after == 17


CHAINED = """{"success": false, "errors": [
    {"code": 6003, "message": "Invalid request headers", "error_chain":
    [{"code": 6111, "message": "Invalid format for Authorization header"}]}
    ], "messages": [], "result": null}"""


def test_the_reason_in_the_chain_of_errors_is_shown() -> None:
    answer_always(API, status=400, body=CHAINED)
    with pytest.raises(ProviderError) as caught:
        cloudflare().present(record_of(ZONE, APEX))
    assert caught.value.code == "dns_credential_refused"
    assert (
        "Invalid request headers (6003): Invalid format for Authorization header (6111)"
        in caught.value.what
    )


def test_the_messages_are_shown_of_an_answer_without_errors() -> None:
    body = (
        '{"success": false, "errors": [], "messages":'
        ' [{"code": 10, "message": "Under maintenance"}], "result": null}'
    )
    answer_always(API, status=500, body=body)
    with pytest.raises(ProviderError, match=r"answered 500: Under maintenance \(10\)"):
        cloudflare().check()


def test_a_chain_of_nonsense_does_no_harm() -> None:
    chain: Any = {"code": 1, "message": "end"}
    for _ in range(50):
        chain = {"code": 2, "message": "on", "error_chain": [chain, None, "text"]}
    for errors in (
        [chain],
        "text",
        [None],
        [{"error_chain": 5}],
        [{"code": "6003", "message": {}}],
    ):
        responses.reset()
        answer_always(API, status=400, json={"success": False, "errors": errors, "result": None})
        with pytest.raises(ProviderError) as caught:
            cloudflare().check()
        assert (caught.value.code, caught.value.permanent) == ("dns_refused", False)
        assert len(caught.value.what) < 400


@pytest.mark.parametrize(("number", "kind"), CODES.items())
def test_every_documented_error_has_its_class_alone_and_in_a_chain(
    number: int, kind: ErrorKind
) -> None:
    alone = {"code": number, "message": "as documented"}
    chained = {"code": 1, "message": "outer", "error_chain": [alone]}
    for status, found in ((400, alone), (403, alone), (400, chained)):
        ApiBucket.objects.all().delete()
        responses.reset()
        answer_always(
            API, status=status, json={"success": False, "errors": [found], "result": None}
        )
        with pytest.raises(ProviderError) as caught:
            cloudflare().present(record_of(ZONE, APEX))
        assert (caught.value.code, caught.value.permanent) == kind
        assert f"as documented ({number})" in caught.value.what


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("partial", "Convert it to a full setup"),
        ("secondary", "primary"),
        ("internal", "public zone"),
    ],
)
def test_a_zone_for_which_cloudflare_does_not_answer_is_not_written_to(
    fake: FakeCloudflare, kind: str, says: str
) -> None:
    fake.types = {ZONE: kind}
    for provider in (cloudflare(), cloudflare(zone_id=ZONE)):
        with pytest.raises(ProviderError) as caught:
            provider.zone_of("_acme-challenge.www.example.com")
        assert (caught.value.code, caught.value.permanent) == ("dns_zone_not_served", True)
        assert says in caught.value.what
        assert kind in caught.value.what


def test_a_full_zone_above_or_beside_a_partial_one_is_taken(fake: FakeCloudflare) -> None:
    fake.types = {"sub": "partial", "twin": "partial"}
    fake.zones["twin"] = "example.com"
    assert cloudflare().zone_of("_acme-challenge.www.deep.example.com") == ZONE


@pytest.mark.parametrize(
    ("status", "says"), [("pending", "registrar"), ("moved", "other name servers")]
)
def test_a_zone_that_is_not_active_is_doubted(fake: FakeCloudflare, status: str, says: str) -> None:
    fake.statuses = {ZONE: status}
    for provider in (cloudflare(), cloudflare(zone_id=ZONE)):
        zone = provider.zone_of("_acme-challenge.example.com")
        assert says in provider.doubt(zone, "_acme-challenge.example.com", Zone("example.com"))
    fake.statuses = {}
    provider = cloudflare()
    assert provider.doubt(provider.zone_of("example.com"), "example.com", Zone("example.com")) == ""


def test_a_zone_that_resolvers_do_not_see_is_doubted(fake: FakeCloudflare) -> None:
    provider = cloudflare()
    name = "_acme-challenge.www.deep.example.com"
    zone = provider.zone_of(name)
    assert "resolvers see it in the zone example.com" in provider.doubt(
        zone, name, Zone("example.com")
    )
    assert provider.doubt(zone, name, Zone("deep.example.com")) == ""


def test_the_providers_words_are_quoted_on_one_line_without_the_token() -> None:
    answer_always(API, status=400, body=error(400, 9999, f"no\n\x1b[31m {TOKEN} " + "x" * 900)[2])
    with pytest.raises(ProviderError) as caught:
        cloudflare().present(record_of(ZONE, APEX))
    assert "no [31m *** xxx" in caught.value.what
    assert len(caught.value.what) < 400


def test_a_provider_shows_no_secret_when_it_is_printed() -> None:
    provider = cloudflare()
    assert TOKEN not in repr(provider) + str(provider.secret) + repr(provider.__dict__)
