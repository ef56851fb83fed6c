"""A device registers with a code, with an API key, or again with its refresh token."""

from datetime import timedelta

import jwt
import pytest

from accounts.models import AuditEvent
from devices.models import Device, DeviceSession
from keystore.models import RecipientKey
from tests.devices.agent import Agent, b64, decide, enrolled
from tests.issuance.api.calling import refused, rows

pytestmark = pytest.mark.django_db
ENROLS = "ForDeviceAuthenticate:*[authenticate]"

# The points of small order, from the list at https://cr.yp.to/ecdh.html#validate.
P = 2**255 - 19
LOW_ORDER = [
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    P - 1,
    P,
    P + 1,
    P - 1 + 2**255,
    2**256 - 1 - 18,
]


def test_a_device_registers_with_its_code(clock, alice, agent, code):
    response = agent.register(alice.pk, code)
    assert response.status_code == 201
    device, session = response.data_member["device"], response.data_member["session"]
    row = Device.objects.get()
    assert device == {
        "id": row.pk,
        "user_id": alice.pk,
        "device_public_id": agent.public_id,
        "name": "CLI Device host",
        "platform": "linux",
        "model": "x86_64",
        "app_version": "1.0.0",
        "agent_error": "",
        "status": "ACTIVE",
        "tags": [],
        "created_at": 1893456000000,
        "last_seen_at": 1893456000000,
    }
    assert set(session) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert (session["token_type"], session["expires_in"]) == ("Bearer", 3600)
    assert bytes(row.key.public_key) == bytes(agent.key.public_key)


def test_the_access_token_has_the_claims_of_the_protocol(clock, alice, enrolment):
    token = enrolment["session"]["access_token"]
    assert jwt.get_unverified_header(token)["alg"] == "HS256"
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["sub"] == str(alice.pk)
    assert claims["device_id"] == enrolment["device"]["id"]
    assert claims["iat"] == 1893456000
    assert claims["exp"] == 1893456000 + 3600
    assert {"iss", "aud"} <= set(claims)


def test_the_user_id_may_be_text(alice, agent, code):
    assert agent.register(str(alice.pk), code).status_code == 201


def test_no_token_and_no_code_is_stored(agent, enrolment):
    stored = str(DeviceSession.objects.values().get())
    for token in ("access_token", "refresh_token"):
        assert enrolment["session"][token].rpartition(".")[2] not in stored


def test_a_cookie_is_ignored(client_of, bob, alice, agent, code):
    body = agent.body(user_id=alice.pk, registration_code=code)
    answer = client_of(bob).post("/apiv1/device/registration", body)
    assert answer.data_member["device"]["user_id"] == alice.pk


def test_a_session_registers_with_a_code(client_of, alice, agent, code):
    body = agent.body(registration_code=code)
    for prefix in ("/apiv1/me", f"/apiv1/users/{alice.pk}"):
        answer = client_of(alice).post(f"{prefix}/devices", body)
        assert answer.status_code in (200, 201)
    assert Device.objects.count() == 1


def test_a_session_without_a_code_registers_nothing(client_of, alice, agent):
    refused(client_of(alice).post("/apiv1/me/devices", agent.body()), 400, "registration_code")
    assert not Device.objects.exists()


# --- refused codes ---


def test_a_code_of_another_user_is_401(bob, alice, agent, code):
    before = rows()
    refused(agent.register(bob.pk, code), 401)
    assert rows() == before
    assert agent.register(alice.pk, code).status_code == 201


def test_a_session_cannot_use_the_code_of_another_user(client_of, bob, agent, code):
    body = agent.body(registration_code=code)
    refused(client_of(bob).post("/apiv1/me/devices", body), 401)
    assert not Device.objects.exists()


@pytest.mark.parametrize("given", ["rc_unknown", "", None], ids=str)
def test_an_unknown_or_missing_code_is_401(alice, agent, code, given):
    refused(agent.register(alice.pk, given), 401)
    assert not Device.objects.exists()


def test_a_used_code_enrols_no_other_device(alice, agent, code):
    agent.register(alice.pk, code)
    before = rows()
    other = Agent()
    refused(other.register(alice.pk, code), 401)
    assert rows() == before


def test_a_used_code_does_not_replace_the_key(alice, agent, code):
    agent.register(alice.pk, code)
    before = rows()
    refused(agent.register(alice.pk, code, dev_pk=b64(bytes(Agent().key.public_key))), 401)
    assert rows() == before
    assert bytes(Device.objects.get().key.public_key) == bytes(agent.key.public_key)


def test_a_device_may_send_its_used_code_again(alice, agent, code):
    first = agent.register(alice.pk, code).data_member
    second = agent.register(alice.pk, code)
    assert second.status_code == 200
    assert second.data_member["device"]["id"] == first["device"]["id"]
    assert second.data_member["session"]["refresh_token"] != first["session"]["refresh_token"]


def test_a_used_code_brings_no_revoked_device_back(client_of, alice, agent, code):
    device = agent.register(alice.pk, code).data_member["device"]
    client_of(alice).delete(f"/apiv1/users/{alice.pk}/devices/{device['id']}")
    refused(agent.register(alice.pk, code), 401)
    assert Device.objects.get().status == "REVOKED"


def test_a_code_of_an_inactive_user_is_401(alice, agent, code):
    alice.is_active = False
    alice.save()
    refused(agent.register(alice.pk, code), 401)


# --- refused keys ---


@pytest.mark.parametrize(
    "given",
    [
        "",
        "AAAA",
        b64(b"\7" * 31),
        b64(b"\7" * 33),
        b64(b"\7" * 32).rstrip("="),
        b64(b"\xff" * 32).replace("/", "_"),
        "ä" * 44,
        7,
        None,
        *[b64(point.to_bytes(32, "little")) for point in LOW_ORDER],
    ],
    ids=str,
)
def test_a_key_that_cannot_be_used_is_400_and_nothing_is_made(alice, agent, code, given):
    before = rows()
    refused(agent.register(alice.pk, code, dev_pk=given), 400, "dev_pk")
    assert rows() == before
    assert agent.register(alice.pk, code).status_code == 201


@pytest.mark.parametrize("given", ["", "host", "0" * 36, "G" * 36, None, 7], ids=str)
def test_a_public_id_of_another_form_is_400(alice, agent, code, given):
    refused(agent.register(alice.pk, code, device_public_id=given), 400, "device_public_id")


def test_a_public_id_in_upper_case_is_the_same_device(alice, agent, code):
    agent.register(alice.pk, code)
    answer = agent.register(alice.pk, code, device_public_id=agent.public_id.upper())
    assert answer.data_member["device"]["device_public_id"] == agent.public_id


# --- again ---


def test_a_device_that_enrols_again_keeps_its_id(client_of, alice, agent, enrolment):
    agent.start()
    decide(client_of(alice), agent.user_code)
    answer = agent.register(alice.pk, agent.poll()["registration_code"], name="renamed")
    assert answer.status_code == 200
    assert answer.data_member["device"]["id"] == enrolment["device"]["id"]
    assert answer.data_member["device"]["name"] == "renamed"
    assert Device.objects.count() == 1


def test_the_earlier_tokens_end_when_a_device_enrols_again(client_of, alice, agent, enrolment):
    again = enrolled(agent, client_of(alice), alice.pk)
    refused(agent.notify(enrolment["session"]["access_token"]), 401)
    refused(agent.refresh(enrolment["session"]["refresh_token"]), 401)
    assert agent.notify(again["session"]["access_token"]).status_code == 204
    assert agent.refresh(again["session"]["refresh_token"]).status_code == 200


def test_another_key_replaces_the_first_and_retires_it(client_of, alice, agent, enrolment):
    first = Device.objects.get().key
    agent.key = Agent().key
    enrolled(agent, client_of(alice), alice.pk)
    assert bytes(Device.objects.get().key.public_key) == bytes(agent.key.public_key)
    first.refresh_from_db()
    assert first.retired_at
    assert RecipientKey.objects.filter(retired_at=None).count() == 1


def test_two_owners_may_have_the_same_machine(client_of, alice, bob, agent, enrolment):
    other = enrolled(agent, client_of(bob), bob.pk)
    assert other["device"]["id"] != enrolment["device"]["id"]
    assert agent.notify(enrolment["session"]["access_token"]).status_code == 204


def test_a_refresh_token_registers_again_without_a_code(alice, agent, enrolment):
    token = enrolment["session"]["refresh_token"]
    answer = agent.register(alice.pk, refresh_token=token, app_version="2.0.0")
    assert answer.status_code == 200
    assert answer.data_member["device"]["id"] == enrolment["device"]["id"]
    assert answer.data_member["device"]["app_version"] == "2.0.0"
    assert answer.data_member["session"]["refresh_token"] != token


def test_a_refresh_token_of_another_device_registers_nothing(client_of, alice, bob, enrolment):
    token = enrolment["session"]["refresh_token"]
    other = Agent()
    before = rows()
    refused(other.register(alice.pk, refresh_token=token), 401)
    refused(other.register(bob.pk, refresh_token=token), 401)
    assert rows() == before
    assert other.refresh(token).status_code == 200, "it is not spent"


def test_a_refresh_token_does_not_replace_the_key(alice, agent, enrolment):
    token = enrolment["session"]["refresh_token"]
    key = b64(bytes(Agent().key.public_key))
    refused(agent.register(alice.pk, refresh_token=token, dev_pk=key), 401)
    assert bytes(Device.objects.get().key.public_key) == bytes(agent.key.public_key)


def test_a_spent_refresh_token_registers_nothing(clock, alice, agent, enrolment):
    token = enrolment["session"]["refresh_token"]
    agent.refresh(token)
    clock.shift(timedelta(seconds=31))
    answer = agent.register(alice.pk, refresh_token=token)
    assert (answer.status_code, answer.error["code"]) == (401, 10003)


# --- with an API key ---


@pytest.fixture
def script(key_client, alice):
    return key_client(alice, ENROLS)


def test_an_api_key_enrols_without_a_code(script, alice, agent):
    for prefix, status in (("/apiv1/me", 201), (f"/apiv1/users/{alice.pk}", 200)):
        answer = script.post(f"{prefix}/devices", agent.body())
        assert answer.status_code == status
        assert answer.data_member["device"]["user_id"] == alice.pk
    assert agent.notify(answer.data_member["session"]["access_token"]).status_code == 204


@pytest.mark.parametrize(
    "scope", ["devices:*[read,write]", "ForDeviceAuthenticate:*[validate,revoke]"]
)
def test_a_key_without_the_permission_enrols_nothing(key_client, alice, agent, scope):
    answer = key_client(alice, scope).post("/apiv1/me/devices", agent.body())
    assert "ForDeviceAuthenticate:*[authenticate]" in refused(answer, 403)
    assert not Device.objects.exists()


def test_a_key_replaces_the_key_of_a_device(script, agent):
    script.post("/apiv1/me/devices", agent.body())
    agent.key = Agent().key
    assert script.post("/apiv1/me/devices", agent.body()).status_code == 200
    assert bytes(Device.objects.get().key.public_key) == bytes(agent.key.public_key)


def test_a_key_brings_no_revoked_device_back(client_of, script, alice, agent):
    device = script.post("/apiv1/me/devices", agent.body()).data_member["device"]
    client_of(alice).delete(f"/apiv1/me/devices/{device['id']}")
    refused(script.post("/apiv1/me/devices", agent.body()), 403)
    assert Device.objects.get().status == "REVOKED"


def test_enrolment_is_in_the_audit_log(alice, agent, script, enrolment):
    script.post("/apiv1/me/devices", agent.body())
    first, second = AuditEvent.objects.filter(action="device.enrolled").order_by("pk")
    assert first.object == f"device:{enrolment['device']['id']}"
    assert first.actor == f"device {agent.public_id}"
    assert (first.detail["by"], first.detail["is_new"]) == ("registration code", True)
    assert second.actor.startswith("alice@example.org with script")
    assert (second.detail["by"], second.detail["is_new"]) == ("API key", False)


def test_one_device_too_many_is_409(settings, script):
    settings.QUOTAS = {"devices": 1}
    assert script.post("/apiv1/me/devices", Agent().body()).status_code == 201
    answer = script.post("/apiv1/me/devices", Agent().body())
    assert answer.error["key"] == "GENERAL::QUOTA_EXCEEDED"
    assert Device.objects.count() == 1
