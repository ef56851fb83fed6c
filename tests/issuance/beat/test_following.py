"""Certificates follow their devices, also where a process died before it could do that."""

import pytest

from authorities.models import PrivateCA
from authorities.privateca import create_private_ca
from devices.models import DeviceTag, Signal
from issuance import services
from issuance.beat import following
from issuance.models import Certificate, CertificateTag, Issuance, TrustedCA
from keystore.models import KeyWrap
from tests.devices.machine import Machine
from tests.issuance.failing import read

pytestmark = pytest.mark.django_db


def forget_wraps() -> None:
    KeyWrap.objects.filter(recipient_key__isnull=False).delete()


def test_a_missing_wrap_is_made(deployed, machine):
    certificate = deployed(machine)
    forget_wraps()
    following.follow_devices.run()
    assert machine.serves(certificate.pk)


def test_a_missing_wrap_of_device_required_takes_a_new_key(deployed, machine, world):
    certificate = deployed(machine, key_policy="DEVICE_REQUIRED")
    forget_wraps()
    following.follow_devices.run()
    following.follow_devices.run()
    assert Issuance.objects.open().count() == 1
    world.deliver()
    assert machine.serves(certificate.pk)


def test_a_new_key_that_failed_waits_for_its_retry(deployed, machine):
    certificate = deployed(machine, key_policy="DEVICE_REQUIRED")
    forget_wraps()
    Certificate.objects.update(failures=1)
    following.follow_devices.run()
    assert not Issuance.objects.open().exists()
    assert read(certificate).failures == 1


def test_a_missing_assignment_by_tag_is_made(deployed, machine):
    certificate = deployed()
    CertificateTag.objects.create(certificate=certificate, tag="web")
    DeviceTag.objects.create(device=machine.row, tag="web")
    following.follow_devices.run()
    assert machine.serves(certificate.pk)


def test_an_assignment_whose_tag_is_gone_ends(deployed, owner, world):
    machine = Machine(owner, "web")
    certificate = deployed()
    services.assign_to_tag(certificate, "web")
    DeviceTag.objects.all().delete()
    following.follow_devices.run()
    assert machine.materials(certificate.pk).status_code == 404
    assert not KeyWrap.objects.filter(recipient_key__isnull=False).exists()


def test_nothing_is_done_where_all_fits(deployed, machine, owner):
    other = Machine(owner, "web")
    certificate = deployed(machine)
    services.assign_to_tag(certificate, "web")
    assert following.left_behind() == set()
    assert other.serves(certificate.pk)


def test_a_private_ca_that_was_deleted_is_trusted_no_longer(machine, owner):
    private_ca = create_private_ca(owner, {"name": "Office"})
    services.trust(machine.row, private_ca)
    PrivateCA.objects.update(status=PrivateCA.Status.RETIRED)
    following.follow_devices.run()
    assert not TrustedCA.objects.exists()
    assert Signal.objects.order_by("pk").last().type == "ca.unassigned"
