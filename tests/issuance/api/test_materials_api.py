"""A device reads its certificates and keys, and nothing of other devices."""

import base64

import pytest

from accounts.models import AuditEvent
from authorities.privateca import create_private_ca
from certctrl import clock
from devices.models import Device, Signal
from issuance import services
from issuance.models import Certificate
from keystore.models import KeyWrap
from tests.devices.machine import Machine, certified, public_half
from tests.issuance.api.calling import refused

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("policy", ["HYBRID", "DEVICE_REQUIRED"])
def test_each_device_opens_the_key_with_its_own(deployed, machine, owner, policy):
    other = Machine(owner)
    pk = deployed(machine, other, key_policy=policy).pk
    assert machine.serves(pk)
    assert other.serves(pk)
    assert machine.materials(pk).data_member != other.materials(pk).data_member


def test_the_bundle_has_the_bytes_that_agents_read(deployed, machine):
    response = machine.materials(deployed(machine).pk)
    assert response.headers["Cache-Control"] == "no-store"
    bundle = response.data_member
    assert set(bundle) == {
        "wrap_alg",
        "enc_scheme",
        "device_keyfp_b64",
        "enc_data_key_b64",
        "enc_privkey_b64",
        "privkey_nonce_b64",
        "privkey_tag_b64",
    }
    sizes = {
        name: len(base64.b64decode(bundle[name], validate=True))
        for name in ("device_keyfp_b64", "enc_data_key_b64", "privkey_nonce_b64", "privkey_tag_b64")
    }
    assert sizes == {
        "device_keyfp_b64": 32,
        "enc_data_key_b64": 80,
        "privkey_nonce_b64": 12,
        "privkey_tag_b64": 16,
    }


def test_the_older_path_can_be_downloaded(deployed, machine):
    pk = deployed(machine).pk
    response = machine.get(f"certificates/{pk}/bundle?pack=download")
    assert response.data_member == machine.materials(pk).data_member
    assert response.headers["Content-Disposition"].startswith("attachment; filename=")


def test_master_only_is_plaintext_where_the_owner_allows_it(deployed, machine):
    certificate = deployed(machine, key_policy="MASTER_ONLY", server_decrypt_export=True)
    response = machine.materials(certificate.pk)
    assert response.headers["Cache-Control"] == "no-store"
    bundle = response.data_member
    assert set(bundle) == {"enc_scheme", "private_key_der_b64", "certificate_pem"}
    assert bundle["enc_scheme"] == "plaintext"
    opened = public_half(base64.b64decode(bundle["private_key_der_b64"]))
    assert opened == certified(bundle["certificate_pem"])
    event = AuditEvent.objects.get(action="key.opened")
    assert event.actor == f"device {machine.row.public_id}"
    assert not KeyWrap.objects.filter(recipient_key__isnull=False).exists()


def test_master_only_is_refused_without_the_export(deployed, machine):
    response = machine.materials(deployed(machine, key_policy="MASTER_ONLY").pk)
    refused(response, 403)
    assert response.error["key"] == "CERTS::EXPORT_FORBIDDEN"


def test_a_refusal_by_the_policy_goes_before_the_state(world, account, credential, machine):
    spec = world.spec(account, credential, "example.com", key_policy="MASTER_ONLY")
    certificate, _ = services.create_certificate(account.owner, spec, issue=False)
    services.assign(certificate, machine.row)
    refused(machine.materials(certificate.pk), 403)
    Certificate.objects.update(key_policy="HYBRID")
    for path in ("", "/deploy-materials", "/bundle"):
        response = machine.get(f"certificates/{certificate.pk}{path}")
        refused(response, 409)
        assert response.error["key"] == "CERTS::NOT_ISSUED"


def test_a_missing_wrap_is_pending(deployed, machine):
    pk = deployed(machine).pk
    KeyWrap.objects.filter(recipient_key__isnull=False).delete()
    response = machine.materials(pk)
    refused(response, 409)
    assert response.error["key"] == "DEVICES::WRAP_PENDING"
    assert not KeyWrap.objects.filter(recipient_key__isnull=False).exists()
    assert machine.get(f"certificates/{pk}").status_code == 200


def test_certificates_of_others_do_not_exist_for_a_device(deployed, machine, owner, bob):
    pk = deployed(machine).pk
    for stranger in (Machine(owner), Machine(bob)):
        for path in ("", "/deploy-materials", "/bundle"):
            refused(stranger.get(f"certificates/{pk}{path}"), 404)
    refused(machine.materials(pk + 1), 404)


def test_a_deleted_certificate_is_gone_from_the_device(deployed, machine):
    certificate = deployed(machine)
    services.retire(certificate)
    refused(machine.materials(certificate.pk), 404)
    assert not KeyWrap.objects.filter(recipient_key__isnull=False).exists()
    last = Signal.objects.order_by("pk").last()
    assert (last.type, last.ref) == ("cert.unassigned", {"cert_id": certificate.pk})


def test_a_revoked_device_gets_nothing(deployed, machine):
    pk = deployed(machine).pk
    Device.objects.update(status="REVOKED", revoked_at=clock.now())
    refused(machine.materials(pk), 403)


def test_a_token_that_is_absent_or_another_kind_is_refused(deployed, machine, api):
    pk = deployed(machine).pk
    assert api.client.get(f"/apiv1/devices/self/certificates/{pk}").status_code == 401
    machine.client.credentials(HTTP_AUTHORIZATION="Bearer ak_something")
    assert machine.materials(pk).status_code == 401


def test_the_detail_never_has_a_key(deployed, machine):
    response = machine.get(f"certificates/{deployed(machine).pk}")
    assert b"PRIVATE KEY" not in response.content
    assert response.data_member["cert"].startswith("-----BEGIN CERTIFICATE-----")


def test_a_private_ca_is_downloaded(machine, owner):
    private_ca = create_private_ca(owner, {"name": "Office"})
    services.trust(machine.row, private_ca)
    response = machine.get(f"cas/{private_ca.pk}/bundle?pack=download")
    assert "attachment" in response.headers["Content-Disposition"]
