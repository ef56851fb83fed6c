"""The device code grant: a device starts, a person decides, the device polls."""

import re

import pytest

from accounts.models import AuditEvent
from devices.models import DeviceCode
from tests.devices.agent import Agent, decide
from tests.issuance.api.calling import refused, rows

pytestmark = pytest.mark.django_db


def statuses(agent: Agent, *, times: int) -> list[str]:
    return [agent.poll()["status"] for _ in range(times)]


def test_a_start_returns_both_codes_and_where_a_person_goes(agent):
    started = agent.start(interval=7, expires_in=300).data_member
    assert re.fullmatch(r"[A-Z0-9]{4}-[A-Z0-9]{4}", started["user_code"])
    assert started == {
        "device_code": started["device_code"],
        "user_code": started["user_code"],
        "verification_uri": "http://testserver/device",
        "verification_uri_complete": f"http://testserver/device?user_code={started['user_code']}",
        "interval": 7,
        "expires_in": 300,
    }
    assert started["device_code"]


def test_neither_secret_code_is_stored(agent, code):
    row = DeviceCode.objects.values().get()
    assert agent.device_code not in str(row)
    assert code not in str(row)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"interval": 0}, "interval"),
        ({"interval": -5}, "interval"),
        ({"interval": "soon"}, "interval"),
        ({"expires_in": 29}, "expires_in"),
        ({"expires_in": 3601}, "expires_in"),
        ({"scopes": ["openid", ""]}, "scopes[1]"),
        ({"scopes": "openid"}, "scopes"),
    ],
    ids=str,
)
def test_a_start_out_of_its_limits_is_400_and_makes_nothing(agent, changes, field):
    refused(agent.start(**changes), 400, field)
    assert not DeviceCode.objects.exists()


def test_the_limits_of_a_start_are_taken(agent):
    for limits in ({"interval": 1, "expires_in": 30}, {"expires_in": 3600}, {"scopes": []}):
        assert agent.start(**limits).status_code == 200


@pytest.mark.parametrize("action", [None, "", "fly", 7, ["device_start"]], ids=str)
def test_an_unknown_action_is_400(agent, action):
    refused(agent.start(action=action), 400, "action")


def test_one_network_starts_only_so_many_in_a_minute(agent):
    responses = [agent.start().status_code for _ in range(61)]
    assert responses == [200] * 60 + [429]


def test_a_device_that_polls_in_time_is_asked_to_keep_polling(clock, agent):
    agent.start(interval=5)
    assert agent.poll() == {"status": "authorization_pending"}
    clock.shift(5)
    assert agent.poll() == {"status": "authorization_pending"}


def test_a_device_that_polls_too_soon_is_slowed_down(clock, agent):
    agent.start(interval=5)
    agent.poll()
    clock.shift(4)
    assert agent.poll() == {"status": "slow_down"}
    clock.shift(5)
    assert agent.poll() == {"status": "authorization_pending"}


def test_an_approved_device_gets_the_same_code_at_each_poll(clock, client_of, alice, agent):
    agent.start()
    answer = decide(client_of(alice), agent.user_code)
    assert (answer.status_code, answer.data_member) == (200, {"status": "approved"})
    first = agent.poll()
    assert first == agent.poll()
    assert first["status"] == "ready"
    assert first["user_id"] == alice.pk
    assert first["registration_code"]
    assert 0 < first["registration_code_ttl"] <= 600
    assert "access_token" not in first


def test_a_denied_device_is_refused_for_good(client_of, alice, agent):
    agent.start()
    answer = decide(client_of(alice), agent.user_code, approve=False)
    assert (answer.status_code, answer.data_member) == (200, {"status": "denied"})
    assert statuses(agent, times=2) == ["access_denied"] * 2


def test_a_code_that_nobody_approved_expires(clock, client_of, alice, agent):
    agent.start(expires_in=30)
    clock.shift(30)
    assert statuses(agent, times=2) == ["expired"] * 2
    refused(decide(client_of(alice), agent.user_code), 404, "user_code")
    assert agent.poll() == {"status": "expired"}


def test_an_approval_that_nobody_fetched_expires(clock, client_of, alice, agent):
    agent.start(expires_in=30)
    decide(client_of(alice), agent.user_code)
    clock.shift(30)
    assert agent.poll() == {"status": "expired"}


def test_a_registration_code_expires_after_ten_minutes(clock, alice, agent, code):
    clock.shift(599)
    assert agent.poll()["registration_code_ttl"] == 1
    clock.shift(1)
    assert agent.poll() == {"status": "expired"}
    refused(agent.register(alice.pk, code), 401)


def test_a_used_code_is_not_shown_again(alice, agent, code):
    assert agent.register(alice.pk, code).status_code == 201
    assert agent.poll() == {"status": "expired"}


def test_codes_that_are_long_over_are_deleted(clock, agent):
    agent.start(expires_in=30)
    clock.shift(3631)
    agent.start()
    assert DeviceCode.objects.count() == 1


@pytest.mark.parametrize("device_code", [None, "", "dc_unknown", 7, "x" * 201], ids=str)
def test_an_unknown_device_code_is_400(agent, device_code):
    agent.start()
    body = {"action": "device_poll", "device_code": device_code}
    refused(agent.client.post("/auth/device", body), 400, "device_code")


# --- the decision ---


def test_without_a_session_nobody_approves(agent, key_client, alice):
    agent.start()
    for client in (agent.client, key_client(alice, "devices:*[read,write]")):
        assert decide(client, agent.user_code).status_code == 401
    assert agent.poll() == {"status": "authorization_pending"}


@pytest.mark.parametrize(
    "user_code", ["", "WXYZ1234", "WXYZ-123", "wxyz-1234", "WXYZ-12345", "WXÝZ-1234", 12345678]
)
def test_a_malformed_user_code_is_400(client_of, alice, user_code):
    refused(decide(client_of(alice), user_code), 400, "user_code")


def test_an_unknown_user_code_is_404(client_of, alice):
    refused(decide(client_of(alice), "WXYZ-1234"), 404, "user_code")


def test_approve_must_be_said(client_of, alice, agent):
    agent.start()
    body = {"action": "device_verify", "user_code": agent.user_code}
    refused(client_of(alice).post("/auth/device", body), 400, "approve")
    assert not DeviceCode.objects.exclude(decision="").exists()


def test_a_code_that_another_person_decided_is_unknown(client_of, alice, bob, agent):
    agent.start()
    decide(client_of(alice), agent.user_code)
    stranger = client_of(bob)
    before = rows()
    for approve in (True, False):
        refused(decide(stranger, agent.user_code, approve), 404, "user_code")
    assert agent.poll()["user_id"] == alice.pk
    assert rows() == before


def test_a_decision_can_be_sent_again_but_not_changed(client_of, alice, agent):
    agent.start()
    for _ in range(2):
        assert decide(client_of(alice), agent.user_code).status_code == 200
    refused(decide(client_of(alice), agent.user_code, approve=False), 409)
    assert agent.poll()["status"] == "ready"
    assert AuditEvent.objects.filter(action="device.approved").count() == 1


def test_a_page_of_another_site_cannot_approve(client_of, alice, agent):
    agent.start()
    body = {"action": "device_verify", "user_code": agent.user_code, "approve": True}
    answer = client_of(alice).post("/auth/device", body, HTTP_ORIGIN="https://evil.example")
    refused(answer, 403)
    assert agent.poll() == {"status": "authorization_pending"}


def test_a_decision_is_in_the_audit_log(client_of, alice, agent):
    agent.start()
    decide(client_of(alice), agent.user_code, approve=False)
    event = AuditEvent.objects.get(action="device.denied")
    assert (event.owner, event.actor) == (alice, "alice@example.org")
