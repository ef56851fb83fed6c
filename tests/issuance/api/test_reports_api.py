"""Agents report by `notify`, and owners see what became of their certificates."""

import pytest

from certctrl.sentences import MOST_SAID
from devices.models import Device
from issuance import services
from issuance.models import Deployment
from tests.devices.agent import Agent, enrolled
from tests.issuance.api.calling import refused

pytestmark = pytest.mark.django_db
NOTIFY = "/apiv1/devices/self/notify"


@pytest.fixture
def agent():
    return Agent()


@pytest.fixture
def session(agent, client_of, alice):
    return enrolled(agent, client_of(alice), alice.pk)


@pytest.fixture
def certificate(world, account, credential, session):
    certificate, _ = world.create(account, credential)
    services.assign(certificate, Device.objects.get())
    world.settle()
    certificate.refresh_from_db()
    return certificate


@pytest.fixture
def notify(agent, session):
    token = f"Bearer {session['session']['access_token']}"
    return lambda body: agent.client.post(NOTIFY, body, HTTP_AUTHORIZATION=token)


def event(certificate, state="served", **changes):
    serial = certificate.current.serial
    whole = {"type": "deployment", "cert_id": certificate.pk, "serial": serial, "state": state}
    return whole | {"what": ""} | changes


def test_a_report_is_stored_with_the_version_of_the_agent(notify, certificate):
    version = {"type": "agent_version", "agent": "cert-ctrl", "version": "2.0.0"}
    body = {"schema": "certctrl.device.notify.v1", "events": [event(certificate), version]}
    assert notify(body).status_code == 204
    assert Deployment.objects.get().served_serial == certificate.current.serial
    assert Device.objects.get().app_version == "2.0.0"


def test_a_reason_may_have_several_lines(notify, certificate):
    what = "nginx: [emerg] no such file\nnginx: test failed"
    assert notify({"events": [event(certificate, "failed", what=what)]}).status_code == 204
    assert "no such file nginx: test failed" in Deployment.objects.get().failure_what


def test_the_latest_error_of_an_agent_is_stored(notify, certificate):
    events = [{"type": "agent_error", "what": each} for each in ("first", "the\nlast")]
    assert notify({"events": events}).status_code == 204
    assert Device.objects.get().agent_error == "the last"
    assert notify({"events": [{"type": "agent_error", "what": "x" * 9000}]}).status_code == 204
    assert len(Device.objects.get().agent_error) == MOST_SAID
    assert notify({"events": [{"type": "agent_error", "what": ""}]}).status_code == 204
    assert Device.objects.get().agent_error == ""


def test_events_of_other_types_are_ignored(notify, certificate):
    before = list(Deployment.objects.values())
    events = [{"type": "mood", "cert_id": "x"}, {}, {"type": 7}, {"type": "agent_version"}]
    events += [{"type": "agent_error", "what": 7}]
    assert notify({"events": events}).status_code == 204
    assert notify({"events": []}).status_code == 204
    assert list(Deployment.objects.values()) == before


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"events": None},
        {"events": {"type": "agent_version"}},
        {"events": "agent_version"},
        {"events": [{"type": "agent_version", "version": "3.0.0"}, "text"]},
        {"events": [{"type": "agent_version", "version": "3.0.0"}] * 101},
    ],
    ids=lambda body: str(body)[:60],
)
def test_a_body_without_a_list_of_events_is_refused(notify, certificate, body):
    refused(notify(body), 400)
    assert Device.objects.get().app_version == "1.0.0"


@pytest.mark.parametrize(
    "changes",
    [
        {"cert_id": "x"},
        {"cert_id": None},
        {"cert_id": 0},
        {"serial": "no hex"},
        {"serial": None},
        {"serial": "a" * 101},
        {"state": "perhaps"},
        {"state": None},
        {"what": ["list"]},
    ],
    ids=str,
)
def test_a_broken_report_is_refused_with_the_others(notify, certificate, changes):
    before = list(Deployment.objects.values())
    events = [event(certificate), event(certificate, **changes)]
    refused(notify({"events": events}), 400)
    assert list(Deployment.objects.values()) == before


def test_the_certificate_counts_its_devices(api, notify, certificate):
    path = f"certificates/{certificate.pk}"
    shown = {"devices": 1, "wanted": 1, "fetched": 0, "installed": 0, "served": 0, "failed": 0}
    assert api.get(path).data_member["deployment"] == shown
    notify({"events": [event(certificate, "failed", what="no")]})
    assert api.get(path).data_member["deployment"] == shown | {"failed": 1}
    notify({"events": [event(certificate)]})
    served = shown | {"installed": 1, "served": 1}
    assert api.get(f"{path}?detail=most").data_member["deployment"] == served
    assert api.get("certificates").data_member[0]["deployment"] is None


def test_a_certificate_without_a_device_counts_none(api, world, account, credential):
    certificate, _ = world.create(account, credential)
    counts = api.get(f"certificates/{certificate.pk}").data_member["deployment"]
    assert set(counts.values()) == {0}


WINDOW = {"start": "22:00", "end": "05:00", "timezone": "Europe/Berlin", "days": ["mon"]}


def test_a_person_chooses_how_a_version_is_rolled_out(api, guide, certificate):
    choices = {"rollout": "canary", "install_window": WINDOW, "revoke_superseded": True}
    path = f"certificates/{certificate.pk}"
    shown = api.get(path).data_member
    assert {name: shown[name] for name in choices} == {
        "rollout": "all",
        "install_window": None,
        "revoke_superseded": False,
    }
    changed = api.put(path, choices).data_member
    assert {name: changed[name] for name in choices} == choices
    assert api.put(path, {"install_window": None}).data_member["install_window"] is None
    made = api.post("certificates", guide(domain="other.example.com", **choices)).data_member
    assert {name: made[name] for name in choices} == choices


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rollout": "half"}, "rollout"),
        ({"rollout": None}, "rollout"),
        ({"install_window": "night"}, "install_window"),
        ({"install_window": {}}, "install_window"),
        ({"install_window": WINDOW | {"timezone": "Berlin"}}, "install_window"),
        ({"revoke_superseded": "perhaps"}, "revoke_superseded"),
    ],
    ids=str,
)
def test_a_bad_choice_is_refused_and_changes_nothing(api, certificate, change, field):
    path = f"certificates/{certificate.pk}"
    before = api.get(path).data_member
    refused(api.put(path, change), 400, field)
    assert api.get(path).data_member == before
