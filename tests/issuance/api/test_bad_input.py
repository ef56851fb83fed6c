"""Bad input is a 4xx error that says what to do, and leaves no row."""

import json

import pytest

from tests.issuance.api.calling import refused, rows

pytestmark = pytest.mark.django_db

LABEL = "a" * 64 + ".example.com"
BAD_NAMES = {
    "a space inside": ("exa mple.com", "is not a host name"),
    "a scheme": ("https://example.com", "without scheme"),
    "a port": ("example.com:443", "without scheme, port"),
    "a path": ("example.com/x", "port or path"),
    "an underscore": ("_dmarc.example.com", "underscore"),
    "a hyphen first": ("-www.example.com", "is not a host name"),
    "an empty label": ("www..example.com", "is not a host name"),
    "a wildcard inside": ("www.*.example.com", "whole first label"),
    "half a wildcard": ("w*.example.com", "whole first label"),
    "no dot": ("localhost", "has no dot. Ask for a name in a domain"),
    "a public suffix": ("co.uk", "Ask for a name below it"),
    "a wildcard of a public suffix": ("*.com", "Ask for a name below it"),
    "an over-long label": (LABEL, "more than 63 characters"),
    "an over-long name": (".".join(["a" * 60] * 5) + ".com", "longer than the 253"),
    "a name too long for the challenge": (".".join(["a" * 59] * 4) + ".com", "too long for DNS-01"),
    "an IPv4 address": ("192.0.2.7", "DNS-01 cannot validate"),
    "an IPv6 address": ("2001:db8::1", "DNS-01 cannot validate"),
    "nothing but a dot": (".", "empty"),
    "two dots at the end": ("example.org..", "is not a host name"),
    "an address with two dots at the end": ("1.2.3.4..", "is not a host name"),
    "a wildcard with two dots at the end": ("*.example.org..", "is not a host name"),
    "two ideographic dots at the end": ("example.org\u3002\uff0e", "is not a host name"),
    "a dot at the end that only the mapping shows": ("example.org.\u00ad", "is not a host name"),
    "two halfwidth ideographic dots at the end": ("example.org\uff61\uff61", "is not a host name"),
}


@pytest.mark.parametrize(("name", "words"), BAD_NAMES.values(), ids=BAD_NAMES)
@pytest.mark.parametrize("spelling", ["guide", "reference"])
def test_a_name_that_no_ca_certifies_is_refused(api, spelling, name, words, request):
    body = request.getfixturevalue(spelling)
    before = rows()
    member = "domain" if spelling == "guide" else "domain_name"
    assert words in refused(api.post("certificates", body(**{member: name})), 400, "domain")
    assert words in refused(
        api.post("certificates", body(sans=["www.example.com", name])), 400, "sans"
    )
    assert rows() == before


def test_a_name_that_a_wildcard_of_the_request_covers_is_refused_by_name(api, guide):
    before = rows()
    what = refused(
        api.post("certificates", guide(sans=["*.example.com", "www.example.com"])), 400, "sans"
    )
    assert "www.example.com is already covered by *.example.com" in what
    assert "Leave one of them out" in what
    assert rows() == before


def test_more_names_than_a_certificate_holds_are_refused(api, guide):
    before = rows()
    sans = [f"n{number}.example.com" for number in range(100)]
    assert "at most 100 names" in refused(api.post("certificates", guide(sans=sans)), 400, "sans")
    assert rows() == before


BAD_MEMBERS = {
    "no name": ({"domain": None}, 400, "domain"),
    "an empty name": ({"domain": ""}, 400, "domain"),
    "a name that is an object": ({"domain": {"a": 1}}, 400, "domain"),
    "names that are text": ({"sans": "www.example.com"}, 400, "sans"),
    "a name that is a list": ({"sans": [["www.example.com"]]}, 400, "sans[0]"),
    "no account": ({"acme_account_id": None}, 400, "acme_account_id"),
    "an account that never was": ({"acme_account_id": 987654}, 404, "acme_account_id"),
    "an account that is text": ({"acme_account_id": "mine"}, 400, "acme_account_id"),
    "an account beyond the database": ({"acme_account_id": 2**80}, 400, "acme_account_id"),
    "no credential": ({"dns_provider_id": None}, 400, "dns_provider_id"),
    "a credential that never was": ({"dns_provider_id": 987654}, 404, "dns_provider_id"),
    "an unknown provider": ({"dns_provider_id": "nobody"}, 400, "dns_provider_id"),
    "a provider without credential": ({"dns_provider_id": "cloudflare"}, 404, "dns_provider_id"),
    "a credential that is a list": ({"dns_provider_id": [1]}, 400, "dns_provider_id"),
    "a credential that is true": ({"dns_provider_id": True}, 400, "dns_provider_id"),
    "a credential that is half": ({"dns_provider_id": 1.5}, 400, "dns_provider_id"),
    "a credential that is nothing": ({"dns_provider_id": 0}, 400, "dns_provider_id"),
    "a credential below nothing": ({"dns_provider_id": -1}, 400, "dns_provider_id"),
    "a credential beyond the database": ({"dns_provider_id": 2**80}, 400, "dns_provider_id"),
    "a credential of digits elsewhere": ({"dns_provider_id": "²"}, 400, "dns_provider_id"),
    "a credential of endless digits": ({"dns_provider_id": "9" * 5000}, 400, "dns_provider_id"),
    "a key size of the other type": ({"key_type": "ecdsa", "key_size": 2048}, 400, "key_size"),
    "a key size that nobody uses": ({"key_type": "rsa", "key_size": 1024}, 400, "key_size"),
    "a key size of nothing": ({"key_size": 0}, 400, "key_size"),
    "a curve that CAs do not sign": ({"key_size": 521}, 400, "key_size"),
    "a key size that is text": ({"key_size": "large"}, 400, "key_size"),
    "a key size beyond measure": ({"key_size": 10**40}, 400, "key_size"),
    "an unknown key type": ({"key_type": "ed25519"}, 400, "key_type"),
    "a key type beyond measure": ({"key_type": "e" * 100}, 400, "key_type"),
    "a policy that is none": ({"key_dist_policy": "ANYBODY"}, 400, "key_dist_policy"),
    "an export that no policy allows": (
        {"key_dist_policy": "DEVICE_REQUIRED", "server_decrypt_export": True},
        400,
        "server_decrypt_export",
    ),
    "a country of three letters": ({"country": "SWE"}, 400, "country"),
    "a country of digits": ({"country": "46"}, 400, "country"),
    "a renewal of yesterday": ({"renew_days_before": 0}, 400, "renew_days_before"),
    "a renewal that is text": ({"renew_days_before": "soon"}, 400, "renew_days_before"),
    "a wish that is a list": ({"auto_renew": []}, 400, "auto_renew"),
    "an organization beyond the certificate": ({"organization": "o" * 65}, 400, "organization"),
    "two spellings that differ": ({"domain_name": "example.org"}, 400, "domain"),
    "two accounts that differ": ({"acct_id": 987654}, 400, "acme_account_id"),
}


@pytest.mark.parametrize(("changes", "status", "field"), BAD_MEMBERS.values(), ids=BAD_MEMBERS)
def test_a_create_with_a_wrong_member_is_refused_by_its_name(api, guide, changes, status, field):
    before = rows()
    refused(api.post("certificates", guide(**changes)), status, field)
    assert rows() == before


@pytest.mark.parametrize(
    ("given", "shown"), [(True, '"true"'), ([None], '"[null]"'), ({"ä": 1}, '"{"ä": 1}"')], ids=str
)
def test_a_choice_that_is_not_text_is_shown_as_it_was_sent(api, guide, given, shown):
    what = refused(api.post("certificates", guide(rollout=given)), 400, "rollout")
    assert f"There is no {shown}." in what


@pytest.mark.parametrize(
    "member", ["domain", "sans", "organization", "key_type", "dns_provider_id", "anything"]
)
@pytest.mark.parametrize("character", ["\x00", "\n", "\x7f", "\x9b", "\ud800"])
def test_control_characters_are_refused_at_every_position(api, guide, member, character):
    before = rows()
    text = f"www{character}.example.com"
    body = json.dumps(guide(**{member: [text] if member == "sans" else text}))
    answer = api.post("certificates", body, content_type="application/json")
    assert "control character" in refused(answer, 400, "sans[0]" if member == "sans" else member)
    assert rows() == before


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"domain": "example.com"', 400),
        (b"domain=example.com", 400),
        (b'{"domain": NaN}', 400),
        (b'{"domain": "a", "domain": "b"}', 400),
        (b'["example.com"]', 400),
        (b'"example.com"', 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 400),
        (b'{"key_size": ' + b"9" * 10_000 + b"}", 400),
        (b'{"domain": "' + b"a" * 1024 * 1024 + b'"}', 413),
    ],
    ids=["cut", "form", "NaN", "twice", "list", "text", "bytes", "deep", "digits", "1 MiB"],
)
@pytest.mark.parametrize("path", ["certificates", "acme-accounts", "dns-providers", "cas"])
def test_a_body_that_is_not_a_small_json_object_is_refused(api, path, body, status):
    before = rows()
    refused(api.post(path, body, content_type="application/json"), status)
    assert rows() == before


NEED_NO_BODY = [
    "certificates/{issued.pk}/renew",
    "certificates/{issued.pk}/cancel",
    "certificates/{issued.pk}/preflight",
    "acme-accounts/{issued.account_id}/register",
    "dns-providers/{issued.credential_id}/check",
    "notice-settings/test",
]


@pytest.mark.parametrize("body", [b'{"a":', b"[]", b"\xff"])
@pytest.mark.parametrize("path", NEED_NO_BODY)
def test_a_broken_body_is_refused_also_where_none_is_needed(world, api, issued, path, body):
    before = rows()
    sent = list(world.sent)
    refused(api.post(path.format(issued=issued), body, content_type="application/json"), 400)
    assert (rows(), world.sent) == (before, sent)


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", ""])
def test_a_key_may_send_an_empty_body_of_any_type(keyed, issued, content_type):
    script = keyed("certificates:*[issue]")
    answer = script.client.generic(
        "POST", f"/apiv1/me/certificates/{issued.pk}/renew", b"", content_type=content_type
    )
    assert answer.status_code == 200


def test_a_body_that_is_not_json_by_its_own_word_is_refused(api, guide):
    before = rows()
    what = refused(api.post("certificates", b"domain=example.com", content_type="text/plain"), 415)
    assert "application/json" in what
    assert rows() == before


@pytest.mark.parametrize("path", ["certificates", "acme-accounts", "dns-providers", "cas"])
def test_an_empty_create_asks_for_what_is_missing(api, path):
    before = rows()
    answer = api.post(path, {})
    refused(answer, 400)
    assert answer.error["code"] == 5008
    assert rows() == before


def test_a_ca_that_signs_fewer_keys_says_which(api, guide, settings):
    settings.ACME_CAS = {"custom": {"key_sizes": {"ecdsa": [256]}}}
    before = rows()
    what = refused(api.post("certificates", guide(key_type="rsa", key_size=2048)), 400, "key_size")
    assert "ecdsa 256" in what
    assert rows() == before


def test_a_ca_with_room_for_fewer_names_says_how_many(api, guide, settings):
    settings.ACME_CAS = {"custom": {"max_names": 2}}
    before = rows()
    what = refused(
        api.post("certificates", guide(sans=["a.example.com", "b.example.com"])), 400, "sans"
    )
    assert "at most 2 names" in what
    assert rows() == before


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=x", "limit=-1", "offset=-1", "offset=%00", "total=2", "limit=%C2%B2"],
)
def test_a_page_that_is_none_is_refused(api, query):
    refused(api.get(f"certificates?{query}"), 400)


def test_unknown_methods_and_paths_are_errors_of_the_api(api, client_of, alice):
    refused(api.delete("certificates"), 405)
    assert client_of(alice).get("/apiv1/me/nothing").error["code"] == 5003
    assert client_of(alice).get("/apiv1/me/certificates/0").status_code == 404
    assert client_of(alice).get("/apiv1/me/certificates/99999999999999999999999").status_code == 404


def test_without_a_credential_nothing_is_answered(client_of, db):
    refused(client_of().get("/apiv1/me/certificates"), 401)
    refused(client_of(token="ak_nobodys").get("/apiv1/me/certificates"), 401)
