"""A refused form or call names the compared values and the setting to change."""

import json

import pytest
from django.test import Client, RequestFactory

from certctrl import origins

HOST = "certs.example.com"


def request(host=HOST, secure=False, **headers):
    return RequestFactory().post("/admin/login/", secure=secure, headers={"Host": host, **headers})


@pytest.fixture(autouse=True)
def _hosts(settings):
    settings.ALLOWED_HOSTS = [HOST]


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://certs.example.com", HOST),
        ("https://certs.example.com", f"{HOST}:443"),
        ("http://certs.example.com", f"{HOST}:80"),
        ("https://certs.example.com:8443", f"{HOST}:8443"),
        ("https://CERTS.example.com", HOST),
    ],
)
def test_the_same_place_is_own_with_and_without_the_schemes_port(origin, host):
    assert origins.is_own(origin, request(host))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://certs.example.com:8443", HOST),
        ("https://certs.example.com", f"{HOST}:8443"),
        ("https://certs.example.com", f"{HOST}:80"),
        ("http://certs.example.com", f"{HOST}:443"),
        ("null", HOST),
        ("certs.example.com", HOST),
    ],
)
def test_another_host_or_port_is_not(origin, host):
    assert not origins.is_own(origin, request(host))


def test_a_lost_port_names_both_and_the_header():
    what = origins.advice(request(Origin=f"https://{HOST}:8443"))
    assert f"https://{HOST}:8443" in what
    assert f"called as {HOST}." in what
    assert "proxy_set_header Host $http_host;" in what


def test_the_referer_counts_where_there_is_no_origin():
    assert f"https://{HOST}:8443" in origins.advice(
        request(Referer=f"https://{HOST}:8443/admin/login/")
    )
    assert origins.advice(request(Referer="https://[")) == ""


def test_tls_that_ended_at_a_proxy_names_the_setting():
    what = origins.advice(request(Origin=f"https://{HOST}"))
    assert "BEHIND_PROXY" in what
    assert origins.advice(request(Origin=f"https://{HOST}", secure=True)) == ""


@pytest.mark.django_db
def test_header_values_are_escaped():
    headers = {"Host": HOST, "Origin": "https://<script>alert(1)</script>"}
    page = Client(enforce_csrf_checks=True).post("/sign-in", {"email": "a"}, headers=headers)
    assert page.status_code == 403
    assert b"<script>alert" not in page.content
    assert b"&lt;script&gt;" in page.content


def test_cookies_for_https_only_over_http_are_named(settings):
    settings.CSRF_COOKIE_SECURE = True
    assert "SESSION_COOKIE_SECURE" in str(origins.refusal_of_form(request()))


@pytest.mark.django_db
def test_the_admin_explains_a_form_without_its_csrf_token():
    page = Client(enforce_csrf_checks=True).post(
        "/admin/login/", {"username": "a"}, headers={"Host": HOST}
    )
    assert page.status_code == 403
    assert b"load the page again" in page.content


@pytest.mark.django_db
def test_the_api_names_the_origin_and_the_host_in_its_params():
    headers = {"Host": HOST, "Origin": f"https://{HOST}:8443"}
    answer = Client().post("/auth/general", "{}", content_type="application/json", headers=headers)
    assert answer.status_code == 403
    error = json.loads(answer.content)["error"]
    assert error["params"] == {"origin": f"https://{HOST}:8443", "host": HOST}
    assert "$http_host" in error["what"]


@pytest.mark.parametrize("path", ["/auth/status", "/admin/login/"])
def test_a_host_that_is_not_named_is_400_and_names_the_setting(path):
    answer = Client().get(path, headers={"Host": "10.0.0.7"})
    assert answer.status_code == 400
    assert (
        json.loads(answer.content)["error"]["what"]
        == "The host 10.0.0.7 is not in the setting ALLOWED_HOSTS. "
        "Call this server by a host in that setting."
    )
