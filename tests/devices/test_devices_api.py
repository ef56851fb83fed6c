"""Owners list their devices, rename, tag and revoke them."""

import pytest

from accounts.models import AuditEvent
from devices.models import Device
from tests.devices.agent import Agent, enrolled
from tests.issuance.api.calling import Caller, refused

pytestmark = pytest.mark.django_db


@pytest.fixture
def api(client_of, alice) -> Caller:
    return Caller(client_of(alice))


@pytest.fixture
def bobs(client_of, bob) -> Caller:
    return Caller(client_of(bob))


@pytest.fixture
def device(enrolment):
    return enrolment["device"]


def test_devices_are_listed_newest_first(client_of, api, alice, device):
    second = enrolled(Agent(), client_of(alice), alice.pk)["device"]
    assert api.get("devices").data_member == [second, device]
    assert api.get(f"devices/{device['id']}").data_member == device


def test_a_list_takes_as_many_queries_for_five_as_for_one(
    client_of, alice, api, django_assert_max_num_queries
):
    for _ in range(5):
        enrolled(Agent(), client_of(alice), alice.pk)
    with django_assert_max_num_queries(4):
        assert len(api.get("devices").data_member) == 5


def test_a_device_is_found_by_its_public_id(client_of, alice, api, agent, device):
    for path in (agent.public_id, agent.public_id.upper()):
        assert api.get(f"devices/by-public-id/{path}").data_member == device
    users = Caller(client_of(alice), f"/apiv1/users/{alice.pk}")
    assert users.get(f"devices/by-public-id/{agent.public_id}").data_member == device
    refused(api.get(f"devices/by-public-id/{Agent().public_id}"), 404)


def test_devices_of_others_are_not_there(bobs, agent, device):
    assert bobs.get("devices").data_member == []
    refused(bobs.get(f"devices/{device['id']}"), 404)
    refused(bobs.get(f"devices/by-public-id/{agent.public_id}"), 404)
    refused(bobs.put(f"devices/{device['id']}", {"name": "mine"}), 404)
    refused(bobs.delete(f"devices/{device['id']}"), 404)
    assert Device.objects.get().status == "ACTIVE"


def test_a_key_for_one_device_sees_only_it(client_of, key_client, alice, agent, device):
    other = Agent()
    enrolled(other, client_of(alice), alice.pk)
    script = Caller(key_client(alice, f"devices:{device['id']}[read]"))
    assert script.get("devices").data_member == [device]
    assert script.get(f"devices/by-public-id/{agent.public_id}").data_member == device
    refused(script.get(f"devices/by-public-id/{other.public_id}"), 404)
    refused(script.delete(f"devices/{device['id']}"), 403)


def test_a_device_is_renamed_and_tagged(api, device):
    path = f"devices/{device['id']}"
    changed = api.put(path, {"name": "edge", "tags": ["web", "berlin", "web"]})
    assert changed.data_member == device | {"name": "edge", "tags": ["berlin", "web"]}
    assert api.patch(path, {"tags": ["web", "paris"]}).data_member["tags"] == ["paris", "web"]
    assert api.get("devices?tag=paris").data_member[0]["id"] == device["id"]
    assert api.get("devices?tag=berlin").data_member == []
    assert api.patch(path, {"tags": []}).data_member["tags"] == []
    assert AuditEvent.objects.filter(action="device.changed").count() == 3


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"tags": "web"}, "tags"),
        ({"tags": ["with space"]}, "tags[0]"),
        ({"tags": [""]}, "tags[0]"),
        ({"tags": ["x" * 65]}, "tags[0]"),
        ({"tags": [f"t{number}" for number in range(21)]}, "tags"),
    ],
    ids=str,
)
def test_a_bad_change_is_400_and_changes_nothing(api, device, body, field):
    refused(api.put(f"devices/{device['id']}", body), 400, field)
    assert api.get(f"devices/{device['id']}").data_member == device


def test_a_device_keeps_its_tags_when_it_enrols_again(client_of, alice, api, agent, device):
    api.put(f"devices/{device['id']}", {"tags": ["web"]})
    assert enrolled(agent, client_of(alice), alice.pk)["device"]["tags"] == ["web"]


def test_a_revoked_device_keeps_its_row_and_loses_its_tokens(api, agent, enrolment, device):
    for _ in range(2):
        answer = api.delete(f"devices/{device['id']}")
        assert (answer.status_code, answer.content) == (204, b"")
    assert api.get(f"devices/{device['id']}").data_member["status"] == "REVOKED"
    refused(agent.notify(enrolment["session"]["access_token"]), 403)
    refused(agent.refresh(enrolment["session"]["refresh_token"]), 401)
    assert AuditEvent.objects.filter(action="device.revoked").count() == 1
    assert Device.objects.get().key.retired_at


def test_a_person_brings_a_revoked_device_back(client_of, alice, api, agent, device):
    api.delete(f"devices/{device['id']}")
    again = enrolled(agent, client_of(alice), alice.pk)
    assert again["device"]["id"] == device["id"]
    assert again["device"]["status"] == "ACTIVE"
    assert agent.notify(again["session"]["access_token"]).status_code == 204
    assert Device.objects.get().key.retired_at is None
