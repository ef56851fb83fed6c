"""Assignments, devices, policies and renewals that change at the same moment, on PostgreSQL."""

import random
import threading

import pytest
from django.db import transaction
from nacl.public import PrivateKey  # noqa: TID251

from accounts import quotas
from certctrl.errors import ApiError
from devices import registration
from devices import services as devices
from issuance import services
from issuance.beat import following
from issuance.models import Certificate, Issuance
from keystore import recipients
from keystore.models import KeyWrap
from tests import factories
from tests.devices.machine import Machine
from tests.issuance.failing import read
from tests.issuance.racing import at_once, until_another_waits

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.postgres_only,
    pytest.mark.django_db(transaction=True),
]


def enrol_again(row, owner) -> None:
    """Let the device enrol with another key, as a registration does."""
    with transaction.atomic():
        quotas.lock(owner.pk)
        device = registration.device_of(owner, {"device_public_id": row.public_id})
        key = recipients.recipient_key(owner, bytes(PrivateKey.generate().public_key))
        registration.enrol(owner, device, key, {})


@pytest.mark.parametrize(
    "policy", ["HYBRID", pytest.param("DEVICE_REQUIRED", marks=pytest.mark.slow)]
)
def test_every_change_at_once_ends_with_the_right_wraps(deployed, world, owner, policy):
    rows = [factories.device(owner, *(["web"] if number % 2 else [])) for number in range(6)]
    certificate = deployed(key_policy="HYBRID")
    for row in rows[:4]:
        services.assign(read(certificate), row)
    rng = random.Random(policy)
    for _ in range(4):
        rng.shuffle(rows)
        results = at_once(
            lambda: services.assign(read(certificate), rows[0]),
            lambda: services.unassign(read(certificate), rows[1]),
            lambda: services.assign_to_tag(read(certificate), "web"),
            lambda: services.unassign_from_tag(read(certificate), "web"),
            lambda: enrol_again(rows[2], owner),
            lambda: devices.revoke_device(rows[3]),
            lambda: devices.change_device(rows[4], {"tags": rng.choice([["web"], []])}),
            lambda: services.update_certificate(read(certificate), {"key_policy": policy}),
            lambda: services.issue(read(certificate)),
            following.follow_devices.run,
        )
        assert [each for each in results if isinstance(each, Exception)] == [
            each for each in results if isinstance(each, ApiError)
        ]
        world.deliver()
    following.follow_devices.run()
    world.settle()
    following.follow_devices.run()
    assert fits(read(certificate))


def fits(certificate: Certificate) -> bool:
    wanted = set(certificate.active_devices().values_list("key", flat=True))
    found = KeyWrap.objects.filter(recipient_key__isnull=False)
    assert {each.envelope_id for each in found} <= {certificate.current.key_id}
    return wanted == {each.recipient_key_id for each in found}


@pytest.mark.parametrize(
    "change",
    [
        lambda certificate, device: services.assign(certificate, device),
        lambda certificate, device: services.assign_to_tag(certificate, "web"),
        lambda certificate, device: services.update_certificate(
            certificate, {"key_policy": "HYBRID"}
        ),
    ],
    ids=["assign", "assign to a tag", "change the policy"],
)
def test_a_device_enrols_while_its_certificate_takes_a_new_key(deployed, owner, change):
    """The change counts the attempts of the owner, whose devices enrol one at a time."""
    machine = Machine(owner)
    certificate = deployed(machine, key_policy="DEVICE_REQUIRED")
    device = factories.device(owner, "web")
    locked = threading.Event()

    def enrol() -> None:
        with transaction.atomic():
            quotas.lock(owner.pk)
            locked.set()
            until_another_waits()
            for each in (machine.row, device):
                assert registration.device_of(owner, {"device_public_id": each.public_id})

    def change_it() -> None:
        assert locked.wait(30)
        change(read(certificate), device)

    assert at_once(enrol, change_it) == [None, None]
    assert Issuance.objects.open().filter(certificate=certificate).exists()
