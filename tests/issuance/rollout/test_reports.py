"""Devices report what became of a version, and the deployment keeps it."""

import pytest

from issuance import rollout, services
from issuance.models import Deployment
from issuance.rollout import Report, reports
from tests import factories
from tests.issuance.rollout.fleet import Fleet

pytestmark = pytest.mark.django_db


@pytest.fixture
def fleet(world, account, credential):
    return Fleet(world, account, credential, count=2)


def shown(row: Deployment) -> tuple[str, ...]:
    return (row.fetched_serial, row.installed_serial, row.served_serial, row.failure)


def test_each_state_has_its_version_and_its_moment(fleet):
    before = fleet.renew()
    device, old, new = fleet.devices[0], before.serial, fleet.current.serial
    assert shown(fleet.row(device)) == ("", old, old, "")
    rollout.note_fetched(device, fleet.current)
    assert shown(fleet.row(device)) == (new, old, old, "")
    fleet.world.advance(5)
    fleet.report(device, "installed")
    assert shown(fleet.row(device)) == (new, new, old, "")
    fleet.world.advance(5)
    fleet.report(device, "served")
    row = fleet.row(device)
    assert shown(row) == (new, new, new, "")
    assert (row.installed_at - row.fetched_at).seconds == 5
    assert (row.served_at - row.installed_at).seconds == 5
    assert shown(fleet.row(fleet.devices[1])) == ("", old, old, "")


def test_a_version_is_noted_as_fetched_once(fleet):
    rollout.note_fetched(fleet.devices[0], fleet.current)
    first = fleet.row(fleet.devices[0]).fetched_at
    fleet.world.advance(60)
    rollout.note_fetched(fleet.devices[0], fleet.current)
    assert fleet.row(fleet.devices[0]).fetched_at == first


def test_a_served_version_is_also_installed(fleet):
    fleet.renew()
    fleet.report(fleet.devices[0], "served")
    row = fleet.row(fleet.devices[0])
    assert row.installed_serial == fleet.current.serial
    assert row.installed_at == row.served_at


def test_a_rolled_back_version_is_not_installed(fleet):
    fleet.renew()
    fleet.report(fleet.devices[0], "installed")
    fleet.report(fleet.devices[0], "rolled_back", "line one\nline two\x00" + "x" * 5000)
    row = fleet.row(fleet.devices[0])
    assert (row.installed_serial, row.installed_at) == ("", None)
    assert (row.failure, row.failed_serial) == ("rolled_back", fleet.current.serial)
    assert row.failure_what.startswith("line one line two x")
    assert len(row.failure_what) <= 4000


def test_a_failure_of_an_older_version_stays_out_of_the_notices(fleet):
    before = fleet.renew()
    fleet.report(fleet.devices[0], "failed", "late", version=before)
    assert fleet.row(fleet.devices[0]).failed_serial == before.serial
    assert fleet.notices() == []
    fleet.report(fleet.devices[0], "served")
    assert fleet.row(fleet.devices[0]).failed_serial == before.serial


@pytest.mark.parametrize("spell", [str.upper, "00:{}".format, "0x{}".format, "0000{}".format])
def test_a_serial_number_is_known_in_other_spellings(fleet, spell):
    fleet.renew()
    serial = spell(fleet.current.serial)
    report = Report(fleet.certificate.pk, serial, "served", "")
    rollout.note_reports(fleet.devices[0], [report])
    assert fleet.row(fleet.devices[0]).served_serial == fleet.current.serial


def test_reports_about_others_are_ignored(fleet):
    stranger = factories.device(fleet.certificate.owner, name="stranger")
    before = list(Deployment.objects.values())
    serial = fleet.current.serial
    rollout.note_reports(stranger, [Report(fleet.certificate.pk, serial, "failed", "no")])
    rollout.note_reports(
        fleet.devices[0],
        [
            Report(fleet.certificate.pk + 1, serial, "served", ""),
            Report(fleet.certificate.pk, "abc123", "failed", "no"),
        ],
    )
    assert list(Deployment.objects.values()) == before
    assert fleet.notices() == []


def test_a_report_after_the_assignment_is_ignored(fleet):
    services.unassign(fleet.certificate, fleet.devices[0])
    fleet.report(fleet.devices[0], "failed", "no")
    assert fleet.notices() == []


def test_a_serial_number_of_zeros_is_of_no_version():
    assert reports.normalized("00:00") == ""
