"""A certificate is assigned to devices, and to tags of devices."""

import pytest

from accounts.models import AuditEvent
from issuance import services
from issuance.models import Deployment
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def certificate(world, account, credential):
    return world.create(account, credential)[0]


@pytest.fixture
def device(account):
    return factories.device(account.owner, "web")


def assigned(certificate) -> dict[int, bool]:
    return dict(certificate.deployments.values_list("device", "by_tag"))


def audited() -> list[str]:
    found = AuditEvent.objects.filter(action__contains="assigned").order_by("pk")
    return list(found.values_list("action", flat=True))


def test_a_certificate_is_assigned_once(certificate, device):
    services.assign(certificate, device)
    services.assign(certificate, device)
    assert assigned(certificate) == {device.pk: False}
    assert audited() == ["certificate.assigned"]


def test_an_assignment_ends(certificate, device):
    services.assign(certificate, device)
    services.unassign(certificate, device)
    services.unassign(certificate, device)
    assert not Deployment.objects.exists()
    assert audited() == ["certificate.assigned", "certificate.unassigned"]


def test_a_tag_assigns_to_each_device_with_the_tag(certificate, device, account, bob):
    factories.device(account.owner, "mail")
    factories.device(bob, "web")
    services.assign_to_tag(certificate, "web")
    assert assigned(certificate) == {device.pk: True}
    services.unassign_from_tag(certificate, "web")
    assert assigned(certificate) == {}
    assert audited() == [
        "certificate.tag_assigned",
        "certificate.assigned",
        "certificate.tag_unassigned",
        "certificate.unassigned",
    ]


def test_an_assignment_without_a_tag_outlasts_the_tag(certificate, device):
    services.assign_to_tag(certificate, "web")
    services.assign(certificate, device)
    services.unassign_from_tag(certificate, "web")
    assert assigned(certificate) == {device.pk: False}


def test_a_tag_keeps_the_certificate_on_the_device(certificate, device):
    services.assign(certificate, device)
    services.assign_to_tag(certificate, "web")
    services.unassign(certificate, device)
    assert assigned(certificate) == {device.pk: True}
