"""Owners assign certificates and private CAs to devices, and see what is where."""

import pytest

from authorities.privateca import create_private_ca
from devices import services as devices
from devices.models import Signal
from issuance.models import Deployment, TrustedCA
from tests import factories
from tests.devices.machine import Machine
from tests.issuance.api.calling import refused

pytestmark = pytest.mark.django_db


@pytest.fixture
def private_ca(owner):
    return create_private_ca(owner, {"name": "Office"})


def ids(response) -> list[int]:
    assert response.status_code == 200, response.content
    return [each["id"] for each in response.data_member]


# --- assignment at the device ---


def test_a_certificate_is_assigned_and_taken_away(api, deployed, machine):
    pk, device = deployed().pk, machine.row.pk
    assert ids(api.get(f"devices/{device}/certificates")) == []
    response = api.post(f"devices/{device}/certificates", {"cert_id": pk})
    assert (response.status_code, response.content) == (204, b"")
    assert ids(api.get(f"devices/{device}/certificates")) == [pk]
    assert machine.serves(pk)
    assert api.delete(f"devices/{device}/certificates/{pk}").status_code == 204
    assert ids(api.get(f"devices/{device}/certificates")) == []
    refused(api.delete(f"devices/{device}/certificates/{pk}"), 404)


def test_a_certificate_on_a_device_is_shown_with_its_chain(api, deployed, machine):
    pk = deployed(machine).pk
    shown = api.get(f"devices/{machine.row.pk}/certificates/{pk}").data_member
    assert shown == machine.get(f"certificates/{pk}").data_member
    assert shown["cert"].startswith("-----BEGIN CERTIFICATE-----")
    assert shown["note"] == ""


def test_device_required_answers_with_the_attempt(api, deployed, machine, world):
    pk, device = deployed(key_policy="DEVICE_REQUIRED").pk, machine.row.pk
    response = api.post(f"devices/{device}/certificates", {"cert_id": pk})
    assert response.status_code == 202
    assert response.data_member["status"] == "PENDING"
    world.deliver()
    assert machine.serves(pk)


def test_the_owner_reads_the_bundle_of_the_device(api, deployed, machine):
    pk, device = deployed(machine).pk, machine.row.pk
    response = api.get(f"devices/{device}/certificates/{pk}/bundle")
    assert response.headers["Cache-Control"] == "no-store"
    assert response.data_member == machine.materials(pk).data_member
    response = api.get(f"devices/{device}/certificates/{pk}/bundle?pack=download")
    assert "attachment" in response.headers["Content-Disposition"]


def test_the_owner_gets_no_plaintext_from_a_bundle(api, deployed, machine):
    pk = deployed(machine, key_policy="MASTER_ONLY", server_decrypt_export=True).pk
    response = api.get(f"devices/{machine.row.pk}/certificates/{pk}/bundle")
    refused(response, 403)
    assert response.error["key"] == "CERTS::EXPORT_FORBIDDEN"


def test_rows_of_others_are_not_assigned(api, bobs, deployed, machine, bob):
    pk, device = deployed().pk, machine.row.pk
    refused(bobs.post(f"devices/{device}/certificates", {"cert_id": pk}), 404)
    theirs = Machine(bob).row.pk
    refused(bobs.post(f"devices/{theirs}/certificates", {"cert_id": pk}), 404, "cert_id")
    refused(api.post(f"devices/{theirs}/certificates", {"cert_id": pk}), 404)
    refused(api.post(f"certificates/{pk}/assign", {"device_id": theirs}), 404, "device_id")
    refused(bobs.get(f"certificates/{pk}/devices"), 404)
    assert not Deployment.objects.exists()


@pytest.mark.parametrize("body", [{}, {"cert_id": "x"}, {"cert_id": 0}, {"cert_id": None}])
def test_a_wrong_certificate_id_is_refused(api, machine, body):
    refused(api.post(f"devices/{machine.row.pk}/certificates", body), 400, "cert_id")


def test_a_revoked_device_gets_no_assignment(api, deployed, machine):
    pk = deployed().pk
    devices.revoke_device(machine.row)
    refused(api.post(f"devices/{machine.row.pk}/certificates", {"cert_id": pk}), 409)


# --- assignment at the certificate ---


def test_a_certificate_lists_its_devices(api, deployed, machine, owner):
    pk = deployed(machine).pk
    tagged = Machine(owner, "web")
    assert api.post(f"certificates/{pk}/assign", {"tag": "web"}).status_code == 204
    [second, first] = api.get(f"certificates/{pk}/devices").data_member
    assert (first["id"], first["by_tag"], first["wrap_pending"]) == (machine.row.pk, False, False)
    assert (second["id"], second["by_tag"]) == (tagged.row.pk, True)
    assert first["device_public_id"] == machine.row.public_id
    assert [each["tag"] for each in api.get(f"certificates/{pk}/tags").data_member] == ["web"]
    assert tagged.serves(pk)


def test_a_certificate_leaves_a_device_and_a_tag(api, deployed, machine, owner):
    pk = deployed(machine).pk
    Machine(owner, "web")
    api.post(f"certificates/{pk}/assign", {"tag": "web"})
    body = {"device_id": machine.row.pk}
    assert api.post(f"certificates/{pk}/unassign", body).status_code == 204
    assert api.post(f"certificates/{pk}/unassign", {"tag": "web"}).status_code == 204
    assert api.get(f"certificates/{pk}/devices").data_member == []
    assert api.get(f"certificates/{pk}/tags").data_member == []


@pytest.mark.parametrize("body", [{}, {"device_id": 1, "tag": "web"}, {"tag": "a tag"}])
def test_an_assignment_names_a_device_or_a_tag(api, deployed, body):
    refused(api.post(f"certificates/{deployed().pk}/assign", body), 400)


def test_a_pending_wrap_is_shown(api, deployed, machine):
    certificate = deployed(machine)
    certificate.current.key.wraps.exclude(recipient_key=None).delete()
    [shown] = api.get(f"certificates/{certificate.pk}/devices").data_member
    assert shown["wrap_pending"]


def test_a_device_of_another_tag_is_left_alone(api, deployed, owner):
    factories.device(owner, "mail")
    pk = deployed().pk
    api.post(f"certificates/{pk}/assign", {"tag": "web"})
    assert api.get(f"certificates/{pk}/devices").data_member == []


# --- API keys ---


def test_an_api_key_assigns_the_certificates_that_it_names(keyed, deployed, machine):
    pk = deployed().pk
    key = keyed(f"certificates:{pk}[read,write]")
    body = {"device_public_id": machine.row.public_id}
    response = key.post("certificate-assign", body)
    assert response.status_code == 200
    assert response.data_member["status"] == "assigned"
    assert machine.serves(pk)
    assert key.post("certificate-assign", body).status_code == 200, "sent again"


def test_an_api_key_assigns_to_own_devices_only(keyed, deployed, bob):
    key = keyed(f"certificates:{deployed().pk}[write]")
    refused(key.post("certificate-assign", {"device_public_id": Machine(bob).row.public_id}), 404)


@pytest.mark.parametrize(
    ("scopes", "status"),
    [
        (["certificates:*[write]"], 400),
        (["certificates:1[read]"], 403),
        (["devices:*[write]"], 403),
    ],
)
def test_an_api_key_without_a_certificate_assigns_nothing(keyed, machine, scopes, status):
    body = {"device_public_id": machine.row.public_id}
    refused(keyed(*scopes).post("certificate-assign", body), status)


def test_a_session_assigns_no_certificates_of_a_key(api, machine):
    refused(api.post("certificate-assign", {"device_public_id": machine.row.public_id}), 400)


def test_an_api_key_needs_both_to_assign_at_the_device(keyed, deployed, machine):
    pk, device = deployed().pk, machine.row.pk
    body = {"cert_id": pk}
    path = f"devices/{device}/certificates"
    refused(keyed(f"devices:{device}[write]").post(path, body), 403)
    refused(keyed(f"certificates:{pk}[write]").post(path, body), 403)
    both = keyed(f"devices:{device}[write]", f"certificates:{pk}[write]")
    assert both.post(path, body).status_code == 204


def test_loosening_a_policy_needs_the_permission_to_issue(keyed, deployed, machine):
    pk = deployed(machine, key_policy="DEVICE_REQUIRED").pk
    body = {"key_dist_policy": "HYBRID"}
    refused(keyed(f"certificates:{pk}[write]").put(f"certificates/{pk}", body), 403)
    response = keyed(f"certificates:{pk}[write,issue]").put(f"certificates/{pk}", body)
    assert response.data_member["issue_history_id"]


# --- private CAs ---


def test_a_device_trusts_a_private_ca(api, machine, private_ca):
    device = machine.row.pk
    for _ in range(2):
        assert api.post(f"devices/{device}/cas", {"ca_id": private_ca.pk}).status_code == 204
    [listed] = api.get(f"devices/{device}/cas").data_member
    bundle = machine.get(f"cas/{private_ca.pk}/bundle").data_member
    assert bundle == listed == api.get(f"devices/{device}/cas/{private_ca.pk}/bundle").data_member
    assert bundle["ca_certificate_pem"] == private_ca.certificate_pem
    assert (bundle["name"], bundle["serial_number"]) == ("Office", private_ca.serial_number)
    assert b"PRIVATE" not in machine.get(f"cas/{private_ca.pk}/bundle").content
    assert api.delete(f"devices/{device}/cas/{private_ca.pk}").status_code == 204
    refused(api.delete(f"devices/{device}/cas/{private_ca.pk}"), 404)
    refused(machine.get(f"cas/{private_ca.pk}/bundle"), 404)
    ref = {"ca_id": private_ca.pk, "ca_name": "Office", "serial": private_ca.serial_number}
    assert list(Signal.objects.order_by("pk").values_list("type", "ref")) == [
        ("ca.assigned", ref),
        ("ca.unassigned", ref),
    ]


def test_a_private_ca_of_another_owner_is_not_trusted(api, machine, bob):
    theirs = create_private_ca(bob, {"name": "Theirs"})
    refused(api.post(f"devices/{machine.row.pk}/cas", {"ca_id": theirs.pk}), 404, "ca_id")
    assert not TrustedCA.objects.exists()
