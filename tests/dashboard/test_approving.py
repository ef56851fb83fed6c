"""The page where a person approves a device."""

import pytest
from django.test import Client

from devices.models import DeviceCode
from tests import factories
from tests.devices.agent import Agent

pytestmark = pytest.mark.django_db


def form(agent: Agent, **changes: str) -> dict[str, str]:
    return {"user_code": agent.user_code, "decision": "approve"} | changes


def test_the_address_that_the_device_shows_has_the_code(agent, visitor):
    address = agent.start().data_member["verification_uri_complete"]
    page = visitor.get(address.removeprefix("http://testserver"))
    assert page.status_code == 200
    assert f'value="{agent.user_code}"' in page.content.decode()
    assert "alice@example.org" in page.content.decode()
    assert 'name="password"' not in page.content.decode()


@pytest.mark.parametrize(
    ("decision", "status"), [("approve", "ready"), ("deny", "access_denied"), ("", "access_denied")]
)
def test_the_button_decides(agent, visitor, decision, status):
    agent.start()
    assert visitor.post("/device", form(agent, decision=decision)).status_code == 200
    assert agent.poll()["status"] == status


def test_a_code_may_be_typed_in_small_letters(agent, visitor):
    agent.start()
    visitor.post("/device", form(agent, user_code=f" {agent.user_code.lower()} "))
    assert agent.poll()["status"] == "ready"


def test_without_a_session_the_page_asks_for_the_password(agent, alice):
    agent.start()
    stranger = Client()
    assert 'name="password"' in stranger.get("/device").content.decode()
    who = {"email": alice.email, "password": factories.PASSWORD}
    assert stranger.post("/device", form(agent, **who)).status_code == 200
    assert agent.poll()["user_id"] == alice.pk


def test_a_wrong_password_decides_nothing(agent, alice):
    agent.start()
    for who in ({}, {"email": alice.email, "password": "wrong"}):
        page = Client().post("/device", form(agent, **who))
        assert page.status_code == 401
        assert 'role="alert"' in page.content.decode()
    assert agent.poll()["status"] == "authorization_pending"


@pytest.mark.parametrize(
    ("user_code", "status"), [("", 400), ("WXYZ1234", 400), ("WXYZ-1234", 404)]
)
def test_a_wrong_code_decides_nothing(agent, visitor, user_code, status):
    agent.start()
    assert visitor.post("/device", form(agent, user_code=user_code)).status_code == status
    assert not DeviceCode.objects.exclude(decision="").exists()


def test_one_person_tries_only_so_many_codes(agent, visitor):
    agent.start()
    tries = [visitor.post("/device", form(agent, user_code="WXYZ-1234")) for _ in range(61)]
    assert [each.status_code for each in tries] == [404] * 60 + [429]


def test_a_form_of_another_site_decides_nothing(agent, alice):
    agent.start()
    visitor = Client(enforce_csrf_checks=True)
    visitor.force_login(alice)
    assert visitor.post("/device", form(agent)).status_code == 403
    assert agent.poll()["status"] == "authorization_pending"


def test_text_in_the_address_is_not_markup(visitor):
    page = visitor.get("/device", {"user_code": '"><script>'})
    assert "<script>" not in page.content.decode()
