"""The session cookie needs no CSRF token, because unsafe requests must name a trusted origin."""

import json

import pytest

from accounts.models import ApiKey
from tests import factories
from tests.factories import PASSWORD

LOGIN = "/auth/general"
KEYS = "/apiv1/me/apikeys"
BODY = json.dumps(
    {
        "name": "ci",
        "expires_in_seconds": 60,
        "permissions": [{"obtype": "devices", "obid": "*", "actions": ["read"]}],
    }
)
TRUSTED = "https://panel.example.com"

ALLOWED = [
    {},  # curl
    {"Origin": "http://testserver"},
    {"Origin": "https://testserver"},  # a proxy that ends TLS
    {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": TRUSTED},
    {"Origin": TRUSTED, "Sec-Fetch-Site": "cross-site"},
    {"Origin": TRUSTED, "Sec-Fetch-Site": "same-site"},
]
REFUSED = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://testserver.evil.example"},
    {"Origin": "http://testserver:8081"},
    {"Origin": "http://sub.testserver"},
    {"Origin": "http://testserver@evil.example"},
    {"Origin": "garbage"},
    {"Origin": "http://[x"},
    {"Origin": "http://testserver]"},
    {"Origin": TRUSTED + ".evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "nonsense"},
    {"Origin": "http://testserver", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "http://testserver", "Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
]


@pytest.fixture(autouse=True)
def _trusted(settings):
    settings.TRUSTED_ORIGINS = [TRUSTED]


@pytest.fixture
def send(client_of, alice):
    def post(method, path, body, headers, content_type="application/json"):
        return client_of(alice).generic(
            method, path, body, content_type=content_type, headers=headers
        )

    return post


@pytest.mark.parametrize("headers", ALLOWED, ids=str)
def test_a_request_from_here_is_taken(send, headers):
    assert send("POST", KEYS, BODY, headers).status_code == 201


@pytest.mark.parametrize("headers", REFUSED, ids=str)
def test_a_request_from_another_site_is_403_and_does_nothing(send, headers):
    response = send("POST", KEYS, BODY, headers)
    assert (response.status_code, response.error["code"]) == (403, 5022)
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("headers", REFUSED, ids=str)
def test_nobody_is_logged_in_by_another_sites_page(client_of, alice, headers):
    body = json.dumps({"email": alice.email, "password": PASSWORD})
    response = client_of().generic(
        "POST", LOGIN, body, content_type="application/json", headers=headers
    )
    assert response.status_code == 403
    assert "cjj365" not in response.cookies


@pytest.mark.parametrize("path", ["/auth/logout", KEYS])
def test_an_empty_post_from_another_site_is_403(send, path):
    assert (
        send("POST", path, "", {"Sec-Fetch-Site": "cross-site"}, content_type="").status_code == 403
    )
    assert (
        send("POST", path, "", {"Origin": "https://evil.example"}, content_type="").status_code
        == 403
    )


def test_a_delete_from_another_site_is_403_and_removes_nothing(send, alice):
    factories.api_key(alice, "devices:*[read]")
    key = ApiKey.objects.get()
    assert (
        send("DELETE", f"{KEYS}/{key.pk}", "", {"Origin": "https://evil.example"}).status_code
        == 403
    )
    key.refresh_from_db()
    assert key.revoked_at is None


@pytest.mark.parametrize("headers", REFUSED, ids=str)
def test_reading_needs_no_guard(send, headers):
    assert send("GET", KEYS, "", headers).status_code == 200


FORMS = ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"]
OTHERS = [
    "application/json-patch+json",
    "text/json",
    "application/jsonx",
    "application/octet-stream",
    "nonsense",
]


@pytest.mark.parametrize("content_type", FORMS + OTHERS)
@pytest.mark.parametrize("body", [BODY, ""])
def test_a_body_that_is_not_json_is_415(send, content_type, body):
    response = send("POST", KEYS, body, {}, content_type=content_type)
    assert (response.status_code, response.error["code"]) == (415, 20008)
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("content_type", FORMS)
def test_a_form_logs_nobody_in(client_of, alice, content_type):
    body = f"email={alice.email}&password={PASSWORD}"
    assert client_of().generic("POST", LOGIN, body, content_type=content_type).status_code == 415


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON"]
)
def test_json_is_json_however_it_is_spelt(send, content_type):
    assert send("POST", KEYS, BODY, {}, content_type=content_type).status_code == 201


def test_a_body_that_does_not_say_what_it_is_is_415(send):
    assert send("POST", KEYS, BODY, {}, content_type="").status_code == 415


def test_a_post_without_body_and_type_is_taken_as_curl_sends_it(client_of, alice):
    assert client_of(alice).generic("POST", "/auth/logout", "", content_type="").status_code == 204


@pytest.mark.parametrize("headers", REFUSED, ids=str)
def test_a_key_is_no_cookie_and_may_come_from_anywhere(key_client, alice, headers):
    client = key_client(alice, "dns_providers:*[read,write]")
    response = client.generic(
        "POST", "/apiv1/me/dns-providers", "{}", content_type="application/json", headers=headers
    )
    assert response.status_code == 400  # read, and found wanting: past every guard
    assert response.error["code"] != 5022


def test_a_form_with_a_key_is_415(key_client, alice):
    client = key_client(alice, "dns_providers:*[read,write]")
    response = client.generic("POST", "/apiv1/me/dns-providers", "a=1", content_type=FORMS[0])
    assert (response.status_code, response.error["code"]) == (415, 20008)
