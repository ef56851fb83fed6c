"""Devices report while the sweep and a renewal move the rollout, on PostgreSQL."""

import pytest
from django.db import connection, transaction

from certctrl import clock
from devices.models import Device, Signal
from issuance import rollout, services
from issuance.beat import rollouts
from issuance.models import Certificate, Deployment
from issuance.rollout import Report
from tests.issuance.racing import at_once
from tests.issuance.rollout.fleet import Fleet

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.postgres_only,
    pytest.mark.django_db(transaction=True),
]


def test_reports_of_all_devices_and_the_sweep_block_each_other_never(world, account, credential):
    fleet = Fleet(world, account, credential, count=6, rollout="canary")
    fleet.renew()
    serial = fleet.current.serial
    report = Report(fleet.certificate.pk, serial, "served", "")

    def served(device):
        return lambda: rollout.note_reports(device, [report])

    def sweep() -> None:
        for _ in range(5):
            rollouts.advance_rollouts(clock.now())

    results = at_once(*map(served, fleet.devices), sweep, sweep)
    assert results == [None] * 8
    world.sweep()
    rows = Deployment.objects.filter(certificate=fleet.certificate)
    assert set(rows.values_list("wanted", "served_serial")) == {(fleet.current.pk, serial)}
    told = Signal.objects.filter(type="cert.updated", ref__serial=serial)
    assert sorted(told.values_list("device", flat=True)) == [each.pk for each in fleet.devices]


def test_a_renewal_and_reports_of_the_version_before_lose_nothing(world, account, credential):
    fleet = Fleet(world, account, credential, count=4)
    first = fleet.current
    services.issue(Certificate.objects.get())
    results = at_once(
        world.deliver,
        *[
            lambda device=device: fleet.report(device, "served", version=first)
            for device in fleet.devices
        ],
    )
    assert results == [None] * 5
    assert fleet.current != first
    assert len(fleet.wanting()) == 4


@pytest.mark.parametrize("table", [Certificate, Device], ids=["certificate", "device"])
def test_the_sweep_skips_a_rollout_that_is_locked(world, account, credential, table):
    """A worker may hold the lock during a call to an HSM that is silent."""
    fleet = Fleet(world, account, credential, count=2)
    Deployment.objects.update(wake_at=world.time)

    def sweep() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '500ms'")
        rollouts.advance_rollouts(world.time)

    with transaction.atomic():
        assert len(table.objects.select_for_update(no_key=True)) > 0
        assert at_once(sweep) == [None]
    assert set(Deployment.objects.values_list("wake_at", flat=True)) == {world.time}
    rollouts.advance_rollouts(world.time)
    assert set(Deployment.objects.values_list("wake_at", flat=True)) == {None}
    assert fleet.current
