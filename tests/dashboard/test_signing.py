"""Signing in and out on the pages."""

from datetime import timedelta

import pytest
import time_machine
from django.test import Client
from django.urls import set_script_prefix

from accounts import links
from accounts.models import AuditEvent
from dashboard import signing
from tests import factories

pytestmark = pytest.mark.django_db


def test_the_password_signs_in_and_leads_back(alice):
    visitor = Client()
    form = {"email": alice.email, "password": factories.PASSWORD, "next": "/certificates?chip=you"}
    answer = visitor.post("/sign-in", form)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/certificates?chip=you")
    assert visitor.get("/").status_code == 200


def test_a_wrong_password_is_refused_and_the_address_stays(alice):
    form = {"email": alice.email, "password": "wrong"}
    answer = Client().post("/sign-in", form)
    assert answer.status_code == 401
    assert alice.email in answer.content.decode()
    assert 'role="alert"' in answer.content.decode()


@pytest.mark.parametrize(
    ("email", "said"), [("", "email is empty."), ("x", "email is not an e-mail address.")]
)
def test_an_address_that_is_none_is_refused_by_the_name_of_its_field(email, said):
    answer = Client().post("/reset", {"email": email})
    assert answer.status_code == 400
    assert said in answer.content.decode()


@pytest.mark.parametrize("back", ["https://evil.example/", "//evil.example", "javascript:alert(1)"])
def test_the_way_back_stays_on_this_host(alice, back):
    form = {"email": alice.email, "password": factories.PASSWORD, "next": back}
    assert Client().post("/sign-in", form).headers["Location"] == "/"


def test_signing_out_ends_the_session(visitor):
    assert visitor.post("/sign-out").status_code == 303
    assert visitor.get("/").status_code == 302


def test_a_form_of_another_site_signs_nobody_out(alice):
    visitor = Client(enforce_csrf_checks=True)
    visitor.force_login(alice)
    assert visitor.post("/sign-out").status_code == 403
    assert visitor.get("/").status_code == 200


def test_a_link_signs_in_once(alice):
    address = f"/sign-in/link?token={links.token_for(alice)}"
    visitor = Client()
    assert visitor.get(address).status_code == 200
    assert visitor.get("/").status_code == 302  # opening it signs nobody in
    assert visitor.post(address).status_code == 302
    assert visitor.get("/").status_code == 200
    assert Client().post(address).status_code == 401
    assert AuditEvent.objects.filter(action="user.logged_in").count() == 1


def test_a_link_is_over_after_an_hour_or_a_new_password(alice):
    token = links.token_for(alice)
    with time_machine.travel(alice.date_joined + timedelta(hours=1, minutes=1)):
        assert Client().post(f"/sign-in/link?token={token}").status_code == 401
    alice.set_password("Another-horse-2")
    alice.save()
    assert Client().post(f"/sign-in/link?token={token}").status_code == 401


@pytest.mark.parametrize("token", ["", "1", "1.x-y", "0.abc-def", "9.dir826-90269c4d8f58", "\0"])
def test_a_link_that_was_never_made_is_refused(alice, token):
    assert Client().post("/sign-in/link", query_params={"token": token}).status_code == 401


def test_a_form_is_kept_when_the_session_ended(alice, account):
    visitor = Client()
    form = {"names": "kept.example.com <b>", "account": account.pk, "action": "issue"}
    asked = visitor.post("/issue", form)
    assert asked.status_code == 401
    kept = asked.context["kept"]
    form = {"email": alice.email, "password": factories.PASSWORD, "next": "/issue", "kept": kept}
    assert visitor.post("/sign-in", form).headers["Location"] == "/issue"
    assert "kept.example.com &lt;b&gt;</textarea>" in visitor.get("/issue").content.decode()
    assert "kept.example.com" not in visitor.get("/issue").content.decode()


def test_a_secret_is_not_kept_when_the_session_ended(alice):
    form = {"provider": "cloudflare", "name": "mine", "api_token": "a-secret-token"}
    asked = Client().post("/dns-credentials", form)
    assert asked.status_code == 401
    assert "mine" in asked.content.decode()
    assert "a-secret-token" not in asked.content.decode()


@pytest.mark.parametrize("kept", ["{", "[]", '{"names": 1}', '"x"', "9" * 70_000])
def test_a_broken_kept_form_is_ignored(alice, kept):
    visitor = Client()
    form = {"email": alice.email, "password": factories.PASSWORD, "next": "/issue", "kept": kept}
    assert visitor.post("/sign-in", form).status_code == 302
    assert visitor.get("/issue").status_code == 200


def test_a_check_without_a_session_leaves_the_form_alone(db):
    answer = Client().post("/issue/names", {"names": "a.org"}, headers={"HX-Request": "true"})
    assert (answer.status_code, answer.content) == (401, b"")
    assert "HX-Redirect" not in answer.headers


def test_a_live_page_without_a_session_leads_to_the_sign_in(certificate):
    address = f"/certificates/{certificate.pk}/attempts/{certificate.issuances.get().pk}"
    here = {"HX-Request": "true", "HX-Current-URL": f"http://testserver{address}"}
    answer = Client().get(f"{address}/part", headers=here)
    assert answer.headers["HX-Redirect"] == f"/sign-in?next={address.replace('/', '%2F')}"


def test_without_a_way_back_the_overview_is_next():
    set_script_prefix("/certctrl/")
    try:
        assert signing.wanted_page({}) == "/certctrl/"
    finally:
        set_script_prefix("/")


def test_a_zero_byte_is_refused(db):
    response = Client().post("/sign-in", {"email": "a\0b", "password": "x"})
    assert response.status_code == 400
