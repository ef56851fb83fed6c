"""An enrolment key enrols a fleet: a number of new devices, each with its tag."""

from datetime import timedelta

import pytest

from accounts.models import ApiKey
from devices.models import Device, EnrolmentKey
from tests.devices.agent import Agent, enrolled
from tests.issuance.api.calling import Caller, refused

pytestmark = pytest.mark.django_db
FLEET = {"name": "edge nodes", "tag": "edge", "uses": 2, "expires_in_seconds": 3600}


@pytest.fixture
def api(client_of, alice) -> Caller:
    return Caller(client_of(alice))


@pytest.fixture
def fleet(clock, api, client_of):
    """A client with a key for two devices."""
    return client_of(token=api.post("enrolment-keys", FLEET).data_member["token"])


def enrol(client, agent, **changes):
    return client.post("/apiv1/me/devices", agent.body(**changes))


def test_a_key_is_made_and_its_token_shown_once(clock, api):
    made = api.post("enrolment-keys", FLEET)
    assert made.status_code == 201
    token = made.data_member.pop("token")
    assert token.startswith("ak_")
    assert made.data_member == {
        "id": EnrolmentKey.objects.get().pk,
        "api_key_id": ApiKey.objects.get().pk,
        "name": "edge nodes",
        "tag": "edge",
        "uses": 2,
        "uses_left": 2,
        "created_at": 1893456000,
        "expires_at": 1893456000 + 3600,
    }
    assert api.get("enrolment-keys").data_member == [made.data_member]
    assert api.get(f"enrolment-keys/{made.data_member['id']}").data_member == made.data_member


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"uses": 0}, "uses"),
        ({"uses": 100_001}, "uses"),
        ({"tag": "with space"}, "tag"),
        ({"expires_in_seconds": 0}, "expires_in_seconds"),
    ],
    ids=str,
)
def test_a_bad_key_is_400_and_makes_nothing(api, change, field):
    refused(api.post("enrolment-keys", FLEET | change), 400, field)
    assert not ApiKey.objects.exists()


def test_a_key_makes_no_keys(key_client, alice):
    script = Caller(key_client(alice, "devices:*[read,write]"))
    refused(script.post("enrolment-keys", FLEET), 403)
    refused(script.get("enrolment-keys"), 403)


def test_keys_of_others_are_not_there(api, client_of, bob, fleet):
    bobs = Caller(client_of(bob))
    pk = EnrolmentKey.objects.get().pk
    assert bobs.get("enrolment-keys").data_member == []
    refused(bobs.delete(f"enrolment-keys/{pk}"), 404)


def test_each_new_device_gets_the_tag_and_takes_a_use(api, fleet):
    for _ in range(2):
        answer = enrol(fleet, Agent())
        assert answer.status_code == 201
        assert answer.data_member["device"]["tags"] == ["edge"]
    assert api.get("enrolment-keys").data_member[0]["uses_left"] == 0
    assert "2 devices" in refused(enrol(fleet, Agent()), 403)
    assert Device.objects.count() == 2


def test_a_retry_of_a_device_takes_no_use(api, fleet):
    agent = Agent()
    first = enrol(fleet, agent).data_member["device"]["id"]
    enrol(fleet, Agent())
    again = enrol(fleet, agent)
    assert (again.status_code, again.data_member["device"]["id"]) == (200, first)
    assert api.get("enrolment-keys").data_member[0]["uses_left"] == 0


def test_an_enrolment_key_changes_no_key_of_a_device(fleet):
    agent = Agent()
    enrol(fleet, agent)
    before = Device.objects.get().key
    agent.key = Agent().key
    refused(enrol(fleet, agent), 403)
    assert Device.objects.get().key == before


def test_an_enrolment_key_takes_no_device_of_a_person(client_of, alice, fleet):
    agent = Agent()
    session = enrolled(agent, client_of(alice), alice.pk)["session"]
    refused(enrol(fleet, agent), 403)
    assert agent.notify(session["access_token"]).status_code == 204


def test_an_enrolment_key_does_nothing_else(fleet):
    enrol(fleet, Agent())
    for path in ("devices", "certificates", "apikeys"):
        refused(fleet.get(f"/apiv1/me/{path}"), 403)


def test_an_expired_key_enrols_nothing(clock, fleet):
    clock.shift(timedelta(hours=1))
    refused(enrol(fleet, Agent()), 401)
    assert not Device.objects.exists()


def test_a_revoked_key_enrols_nothing(api, fleet):
    pk = EnrolmentKey.objects.get().pk
    assert api.delete(f"enrolment-keys/{pk}").status_code == 204
    refused(enrol(fleet, Agent()), 401)
    assert api.get("enrolment-keys").data_member == []
    assert api.get("apikeys").data_member == []


def test_its_devices_stay_when_a_key_is_revoked(api, fleet):
    agent = Agent()
    session = enrol(fleet, agent).data_member["session"]
    api.delete(f"enrolment-keys/{EnrolmentKey.objects.get().pk}")
    assert agent.notify(session["access_token"]).status_code == 204
