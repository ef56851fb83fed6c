"""Owners see which version of a certificate is on which device."""

import pytest

from tests.issuance.api.calling import refused

pytestmark = pytest.mark.django_db


def ids(response) -> list[int]:
    assert response.status_code == 200, response.content
    return [each["id"] for each in response.data_member]


def test_deployments_are_listed_with_their_versions(api, deployed, machine, keyed, bobs):
    certificate, device = deployed(machine), machine.row.pk
    shown = api.get("deployments").data_member
    assert [(each["certificate_id"], each["device_id"]) for each in shown] == [
        (certificate.pk, device)
    ]
    assert shown[0]["wanted"]["serial"] == shown[0]["current"] == certificate.current.serial
    assert ids(api.get(f"deployments?device={device}")) == [shown[0]["id"]]
    assert ids(api.get(f"deployments?device={device + 1}")) == []
    assert ids(keyed(f"devices:{device + 1}[read]").get("deployments")) == []
    assert ids(keyed(f"devices:{device}[read]").get("deployments")) == [shown[0]["id"]]
    assert ids(bobs.get("deployments")) == []
    refused(api.get("deployments?device=x"), 400)


def test_a_failure_is_listed_as_not_serving_until_it_is_over(api, deployed, machine):
    certificate = deployed(machine)
    assert ids(api.get("deployments?not_serving=1")) == []
    for state, count in (("failed", 1), ("served", 0)):
        serial = certificate.current.serial
        event = {"type": "deployment", "cert_id": certificate.pk, "serial": serial}
        machine.client.post("/apiv1/devices/self/notify", {"events": [event | {"state": state}]})
        assert len(ids(api.get("deployments?not_serving=1"))) == count
        assert api.get("summary").data_member["not_serving"] == count
