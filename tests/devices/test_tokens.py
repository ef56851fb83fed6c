"""Access tokens and refresh tokens of devices."""

import base64
import json
from datetime import timedelta

import jwt
import pytest

from accounts.models import AuditEvent
from devices import tokens
from devices.models import Device, DeviceSession
from tests.devices.agent import Agent, enrolled
from tests.issuance.api.calling import refused, rows

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning"),
]
ROTATED = {
    "code": 10003,
    "key": "refresh_token_rotated",
    "what": "Refresh token has been rotated",
    "params": {},
}


@pytest.fixture
def access(clock, enrolment):
    return enrolment["session"]["access_token"]


@pytest.fixture
def token(clock, enrolment):
    return enrolment["session"]["refresh_token"]


def claims_of(access):
    return jwt.decode(access, options={"verify_signature": False})


def signed(claims, key=None, algorithm="HS256"):
    return jwt.encode(claims, key or tokens.access_key(), algorithm=algorithm)


def part(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


# --- access tokens ---


def test_an_access_token_opens_for_an_hour(clock, agent, access):
    clock.shift(3599)
    assert agent.notify(access).status_code == 204
    clock.shift(1)
    assert agent.notify(access).status_code == 401


def test_without_a_token_a_device_endpoint_is_401(agent, enrolment):
    body = {"events": []}
    assert agent.client.post("/apiv1/devices/self/notify", body).status_code == 401


def test_a_session_of_a_person_does_not_open_a_device_endpoint(client_of, alice, enrolment):
    answer = client_of(alice).post("/apiv1/devices/self/notify", {"events": []})
    assert answer.status_code == 401


def test_an_access_token_opens_nothing_of_its_owner(agent, client_of, access):
    script = client_of(token=access)
    for path in ("devices", "certificates", "apikeys"):
        assert script.get(f"/apiv1/me/{path}").status_code == 401


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE"])
def test_a_token_of_the_algorithm_none_is_401(agent, access, alg):
    for end in ("", access.rpartition(".")[2]):
        forged = f"{part({'alg': alg, 'typ': 'JWT'})}.{part(claims_of(access))}.{end}"
        refused(agent.notify(forged), 401)


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_a_token_of_another_algorithm_is_401(agent, access, algorithm):
    refused(agent.notify(signed(claims_of(access), algorithm=algorithm)), 401)


def test_a_token_with_a_swapped_header_is_401(agent, access):
    _, claims, signature = access.split(".")
    for alg in ("none", "HS512", "RS256", "ES256", "EdDSA"):
        refused(agent.notify(f"{part({'alg': alg, 'typ': 'JWT'})}.{claims}.{signature}"), 401)


@pytest.mark.parametrize("key", [b"\0" * 32, b"another key of thirty-two bytes!"])
def test_a_token_that_another_key_signed_is_401(agent, access, key):
    refused(agent.notify(signed(claims_of(access), key=key)), 401)


@pytest.mark.parametrize("change", [{"iss": "other"}, {"aud": "other"}, {"exp": 1}, {"sub": 7}])
def test_a_token_with_a_wrong_claim_is_401(agent, access, change):
    refused(agent.notify(signed(claims_of(access) | change)), 401)


@pytest.mark.parametrize("missing", ["iss", "aud", "exp", "sub"])
def test_a_token_without_a_claim_is_401(agent, access, missing):
    claims = {name: value for name, value in claims_of(access).items() if name != missing}
    refused(agent.notify(signed(claims)), 401)


@pytest.mark.parametrize("device_id", [None, "", "x", -1, [1]], ids=str)
def test_a_token_without_a_device_is_400(agent, access, device_id):
    refused(agent.notify(signed(claims_of(access) | {"device_id": device_id})), 400)


def test_the_device_id_may_be_text(agent, access):
    claims = claims_of(access)
    assert agent.notify(signed(claims | {"device_id": str(claims["device_id"])})).status_code == 204


@pytest.mark.parametrize("text", ["x", "a.b.c", "ak_x", "rt_x", "é.é.é"])
def test_a_text_that_is_no_token_is_401(agent, enrolment, text):
    refused(agent.notify(text), 401)


def test_a_device_that_does_not_exist_is_403(agent, access):
    refused(agent.notify(signed(claims_of(access) | {"device_id": 987654})), 403)


def test_the_device_of_another_owner_is_403(agent, bob, access):
    refused(agent.notify(signed(claims_of(access) | {"sub": str(bob.pk)})), 403)


def test_a_revoked_device_is_403(client_of, alice, agent, enrolment, access):
    client_of(alice).delete(f"/apiv1/me/devices/{enrolment['device']['id']}")
    refused(agent.notify(access), 403)


def test_the_device_of_an_inactive_owner_is_403(alice, agent, access):
    alice.is_active = False
    alice.save()
    refused(agent.notify(access), 403)


def test_authentication_reads_one_row(agent, access, django_assert_num_queries):
    agent.notify(access)
    with django_assert_num_queries(2) as queries:
        agent.notify(access)
    reads = [each["sql"] for each in queries if each["sql"].startswith("SELECT")]
    assert len(reads) == 1


def test_the_last_sight_of_a_device_is_noted_every_five_minutes(clock, agent, access):
    first = Device.objects.get().last_seen_at
    clock.shift(299)
    agent.notify(access)
    assert Device.objects.get().last_seen_at == first
    clock.shift(1)
    agent.notify(access)
    assert Device.objects.get().last_seen_at == first + timedelta(minutes=5)


# --- what a device reports ---


def test_the_version_of_an_agent_is_stored(agent, access):
    assert agent.notify(access, version="9.9.9").status_code == 204
    assert Device.objects.get().app_version == "9.9.9"


def test_events_of_other_types_are_ignored(client_of, agent, access):
    script = client_of(token=access)
    version = {"type": "agent_version"}
    events = [{"type": "weather"}, {}, version, version | {"version": 7}]
    answer = script.post("/apiv1/devices/self/notify", {"events": events})
    assert answer.status_code == 204
    assert Device.objects.get().app_version == "1.0.0"


@pytest.mark.parametrize("body", [{}, {"events": None}, {"events": {}}, {"events": "x"}], ids=str)
def test_a_report_without_a_list_of_events_is_400(client_of, access, body):
    script = client_of(token=access)
    refused(script.post("/apiv1/devices/self/notify", body), 400, "events")


# --- refresh tokens ---


def test_a_refresh_answers_in_both_forms(agent, enrolment, token):
    data = agent.refresh(token).data_member
    session = data.pop("session")
    assert data == session
    assert set(session) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert session["refresh_token"] != token
    assert agent.notify(session["access_token"]).status_code == 204


def test_a_refresh_token_has_the_form_of_the_protocol(token):
    mark, _, rest = token.partition("_")
    family, _, secret = rest.partition(".")
    assert mark == "rt"
    assert len(bytes.fromhex(family)) == 16
    assert len(secret) == 43


def test_a_lost_answer_yields_the_same_successor_for_thirty_seconds(clock, agent, token):
    first = agent.refresh(token).data_member["refresh_token"]
    clock.shift(30)
    assert agent.refresh(token).data_member["refresh_token"] == first
    assert agent.refresh(first).status_code == 200


def test_a_spent_token_ends_its_family(clock, agent, access, token):
    successor = agent.refresh(token).data_member
    clock.shift(31)
    answer = agent.refresh(token)
    assert (answer.status_code, answer.error) == (401, ROTATED)
    refused(agent.refresh(successor["refresh_token"]), 401)
    refused(agent.notify(successor["access_token"]), 401)
    refused(agent.notify(access), 401)


def test_a_token_whose_successor_is_spent_ends_its_family(agent, token):
    successor = agent.refresh(token).data_member["refresh_token"]
    agent.refresh(successor)
    assert agent.refresh(token).error == ROTATED
    assert agent.refresh(successor).error == ROTATED
    assert not DeviceSession.objects.live().exists()


def test_an_old_token_of_the_family_is_still_known_as_spent(clock, agent, token):
    latest = token
    for _ in range(5):
        clock.shift(3600)
        latest = agent.refresh(latest).data_member["refresh_token"]
    assert agent.refresh(token).error == ROTATED
    refused(agent.refresh(latest), 401)


def test_the_end_of_a_family_is_in_the_audit_log_once(clock, alice, agent, enrolment, token):
    agent.refresh(token)
    clock.shift(31)
    for _ in range(2):
        agent.refresh(token)
    event = AuditEvent.objects.get(action="device.tokens_revoked")
    assert (event.owner, event.object) == (alice, f"device:{enrolment['device']['id']}")


def test_a_device_enrols_again_after_its_family_ended(clock, client_of, alice, agent, token):
    agent.refresh(token)
    clock.shift(31)
    agent.refresh(token)
    session = enrolled(agent, client_of(alice), alice.pk)["session"]
    assert agent.notify(session["access_token"]).status_code == 204


def test_a_refresh_token_lives_thirty_days_after_its_issue(clock, agent, token):
    clock.shift(timedelta(days=30, seconds=-1))
    token = agent.refresh(token).data_member["refresh_token"]
    clock.shift(timedelta(days=30))
    answer = agent.refresh(token)
    assert (answer.status_code, answer.error["code"]) == (401, 5018)


@pytest.mark.parametrize(
    "change",
    [
        lambda token: "",
        lambda token: "rt_",
        lambda token: "x" * 201,
        lambda token: token[:-1],
        lambda token: token.upper(),
        lambda token: "ak_" + token,
        lambda token: f"rt_{'0' * 32}.{token.partition('.')[2]}",
        lambda token: f"{token.partition('.')[0]}.{'A' * 43}",
        lambda token: token[:-1] + ("A" if token[-1] != "A" else "B"),
    ],
)
def test_an_unknown_refresh_token_changes_nothing(agent, token, change):
    before = rows()
    answer = agent.refresh(change(token))
    assert answer.status_code in (400, 401)
    assert answer.error["code"] != 10003
    assert rows() == before
    assert agent.refresh(token).status_code == 200


def test_the_secret_of_another_family_is_unknown(client_of, alice, agent, token):
    other = enrolled(Agent(), client_of(alice), alice.pk)["session"]["refresh_token"]
    mixed = f"{token.partition('.')[0]}.{other.partition('.')[2]}"
    assert agent.refresh(mixed).error["code"] == 5018
    for each in (token, other):
        assert agent.refresh(each).status_code == 200


def test_a_revoked_device_refreshes_nothing(client_of, alice, agent, enrolment, token):
    client_of(alice).delete(f"/apiv1/me/devices/{enrolment['device']['id']}")
    assert agent.refresh(token).error["code"] == 5018


def test_the_device_of_an_inactive_owner_refreshes_nothing(alice, agent, token):
    alice.is_active = False
    alice.save()
    assert agent.refresh(token).error["code"] == 5018


@pytest.mark.parametrize("body", [{}, {"refresh_token": None}, {"refresh_token": 7}], ids=str)
def test_a_refresh_without_a_token_is_refused(agent, db, body):
    assert agent.client.post("/auth/refresh", body).status_code in (400, 401)
