"""Devices report while the sweep and a renewal move the rollout, on PostgreSQL."""

import pytest

from certctrl import clock
from devices.models import Signal
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
