"""The wraps of a key follow its policy and its devices."""

import pytest
from nacl.public import PrivateKey  # noqa: TID251

from accounts.models import AuditEvent
from certctrl.errors import Conflict
from devices import registration
from devices import services as devices
from devices.models import Signal
from issuance import services, workflow
from issuance.beat import renewals
from issuance.models import CertificateVersion, Issuance
from keystore import masterkeys, recipients
from keystore.envelope import CannotOpen, open_certificate_key
from keystore.masterkeys import UnknownMasterKey
from keystore.models import KeyWrap
from tests.devices.machine import Machine
from tests.fakes.vault import FakeVault
from tests.issuance.failing import read

pytestmark = pytest.mark.django_db
SERVER = "server"


@pytest.fixture
def other(owner, machine):
    return Machine(owner)


def openers(version: CertificateVersion) -> set[object]:
    """Return the ids of the devices that can open the key, and SERVER if it can too."""
    return {
        each.recipient_key.devices.get().pk if each.recipient_key else SERVER
        for each in KeyWrap.objects.filter(envelope=version.key)
    }


def renewed(world, certificate) -> CertificateVersion:
    services.issue(read(certificate))
    world.deliver()
    return read(certificate).current


def told() -> list[tuple[int, str]]:
    return [(each.device_id, each.type) for each in Signal.objects.order_by("pk")]


# --- assignment ---


def test_hybrid_wraps_at_assignment(deployed, machine):
    certificate = deployed(key_policy="HYBRID")
    assert services.assign(certificate, machine.row) is None
    assert openers(certificate.current) == {SERVER, machine.row.pk}
    assert machine.serves(certificate.pk)
    assert told() == [(machine.row.pk, "cert.updated")]


def test_master_only_wraps_for_no_device(deployed, machine):
    certificate = deployed(key_policy="MASTER_ONLY")
    assert services.assign(certificate, machine.row) is None
    assert openers(certificate.current) == {SERVER}


def test_device_required_is_issued_by_the_first_assignment(deployed, machine, world):
    certificate = deployed(key_policy="DEVICE_REQUIRED")
    assert certificate.current is None
    with pytest.raises(Conflict, match="Assign a device"):
        services.issue(certificate)
    assert services.assign(certificate, machine.row)
    world.deliver()
    assert openers(read(certificate).current) == {machine.row.pk}
    assert machine.serves(certificate.pk)


def test_device_required_gets_a_new_key_for_a_new_device(deployed, machine, other, world):
    certificate = deployed(machine, key_policy="DEVICE_REQUIRED")
    first = certificate.current
    assert services.assign(certificate, other.row)
    assert other.materials(certificate.pk).error["key"] == "DEVICES::WRAP_PENDING"
    assert machine.serves(certificate.pk), "the old key serves until the new one is there"
    world.deliver()
    second = read(certificate).current
    assert second != first
    assert openers(second) == {machine.row.pk, other.row.pk}
    assert openers(first) == set()
    assert machine.serves(certificate.pk)
    assert other.serves(certificate.pk)
    assert told()[-2:] == [(machine.row.pk, "cert.updated"), (other.row.pk, "cert.updated")]


def test_a_device_that_comes_while_the_ca_is_asked_is_served_by_it(deployed, machine, other, world):
    certificate = deployed(machine, key_policy="DEVICE_REQUIRED")
    world.zone.hides = True
    attempt = services.issue(certificate)
    world.deliver()
    assert services.assign(certificate, other.row) == attempt
    world.zone.hides = False
    world.settle()
    assert read(certificate).current.issuance == attempt
    assert other.serves(certificate.pk)
    assert machine.serves(certificate.pk)


def test_a_device_that_was_revoked_is_not_assigned(deployed, machine):
    certificate = deployed()
    devices.revoke_device(machine.row)
    with pytest.raises(Conflict, match="revoked"):
        services.assign(certificate, machine.row)
    assert not certificate.deployments.exists()


def test_an_assignment_that_cannot_be_wrapped_leaves_nothing(deployed, machine, monkeypatch):
    certificate = deployed()
    monkeypatch.setattr(masterkeys, "by_id", raises_unknown)
    with pytest.raises(CannotOpen):
        services.assign(certificate, machine.row)
    assert not certificate.deployments.exists()


def raises_unknown(key_id):
    raise UnknownMasterKey(key_id)


def test_the_wrap_goes_with_the_assignment(deployed, machine, other, monkeypatch):
    certificate = deployed(machine, other)
    monkeypatch.setattr(masterkeys, "by_id", raises_unknown)  # nothing is opened for this
    services.unassign(certificate, machine.row)
    assert openers(certificate.current) == {SERVER, other.row.pk}
    assert told()[-1] == (machine.row.pk, "cert.unassigned")
    assert machine.materials(certificate.pk).status_code == 404


def test_the_last_device_of_device_required_may_go(deployed, machine, other, world):
    certificate = deployed(machine, key_policy="DEVICE_REQUIRED")
    services.unassign(certificate, machine.row)
    assert openers(certificate.current) == set()
    with pytest.raises(Conflict, match="Assign a device"):
        services.issue(read(certificate))
    assert services.assign(certificate, other.row)
    world.deliver()
    assert other.serves(certificate.pk)


def test_an_attempt_whose_devices_all_left_fails_with_the_reason(deployed, machine, world):
    certificate = deployed(machine, key_policy="DEVICE_REQUIRED")
    attempt = services.issue(certificate)
    services.unassign(certificate, machine.row)
    world.deliver()
    attempt.refresh_from_db()
    assert (attempt.state, attempt.error_code) == ("failed", "no_device")
    assert read(certificate).renew_at is None


# --- renewal ---


@pytest.mark.parametrize("policy", ["HYBRID", "DEVICE_REQUIRED"])
def test_two_devices_open_each_of_three_renewals(deployed, machine, other, world, policy):
    certificate = deployed(machine, other, key_policy=policy)
    seen = {certificate.current.pk}
    for _ in range(3):
        version = renewed(world, certificate)
        seen.add(version.pk)
        assert machine.serves(certificate.pk)
        assert other.serves(certificate.pk)
        assert openers(version) - {SERVER} == {machine.row.pk, other.row.pk}
    assert len(seen) == 4
    devices_wraps = KeyWrap.objects.filter(recipient_key__isnull=False)
    assert devices_wraps.count() == 2, "replaced versions keep no wrap for a device"


def test_a_renewal_without_its_master_key_leaves_the_wraps_pending(
    deployed, machine, world, monkeypatch
):
    certificate = deployed(machine)
    with monkeypatch.context() as patch:
        patch.setattr(masterkeys, "by_id", raises_unknown)
        version = renewed(world, certificate)
    assert version != certificate.current
    assert machine.materials(certificate.pk).error["key"] == "DEVICES::WRAP_PENDING"
    services.follow(read(certificate))
    assert machine.serves(certificate.pk)
    assert told()[-1] == (machine.row.pk, "cert.updated")


# --- policies ---


def test_tightening_removes_the_server(deployed, machine):
    certificate = deployed(machine, key_policy="HYBRID")
    assert services.update_certificate(certificate, {"key_policy": "DEVICE_REQUIRED"}) is None
    assert openers(certificate.current) == {machine.row.pk}
    with pytest.raises(CannotOpen):
        open_certificate_key(certificate.current.key, actor="a test", what="a test")
    assert machine.serves(certificate.pk)


def test_tightening_also_removes_the_server_from_old_versions(deployed, machine, world):
    certificate = deployed(machine, key_policy="HYBRID")
    old = certificate.current
    renewed(world, certificate)
    assert openers(old) == {SERVER}
    services.update_certificate(read(certificate), {"key_policy": "DEVICE_REQUIRED"})
    assert openers(old) == set()


def test_tightening_from_master_only_wraps_for_the_devices(deployed, machine):
    certificate = deployed(machine, key_policy="MASTER_ONLY")
    services.update_certificate(certificate, {"key_policy": "DEVICE_REQUIRED"})
    assert openers(certificate.current) == {machine.row.pk}
    assert machine.serves(certificate.pk)


def test_tightening_needs_an_active_device(deployed, machine):
    certificate = deployed(machine)
    devices.revoke_device(machine.row)
    with pytest.raises(Conflict, match="Assign one"):
        services.update_certificate(certificate, {"key_policy": "DEVICE_REQUIRED"})
    assert openers(certificate.current) == {SERVER}


@pytest.mark.parametrize(("policy", "opens"), [("HYBRID", True), ("MASTER_ONLY", False)])
def test_loosening_makes_a_new_key(deployed, machine, world, policy, opens):
    certificate = deployed(machine, key_policy="DEVICE_REQUIRED")
    first = certificate.current
    assert services.update_certificate(certificate, {"key_policy": policy})
    assert openers(first) == {machine.row.pk}, "the device keeps the old key until then"
    world.deliver()
    second = read(certificate).current
    assert second != first
    assert openers(second) == ({SERVER, machine.row.pk} if opens else {SERVER})
    assert openers(first) == set()


def test_a_policy_that_takes_devices_out_removes_their_wraps(deployed, machine):
    certificate = deployed(machine)
    services.update_certificate(certificate, {"key_policy": "MASTER_ONLY"})
    assert openers(certificate.current) == {SERVER}
    services.update_certificate(certificate, {"key_policy": "HYBRID"})
    assert openers(certificate.current) == {SERVER, machine.row.pk}


def test_a_change_of_policy_is_told_to_the_devices_and_audited(deployed, machine):
    certificate = deployed(machine)
    before = len(told())
    services.update_certificate(certificate, {"key_policy": "DEVICE_REQUIRED"})
    assert told()[before:] == [(machine.row.pk, "cert.updated")]
    changed = AuditEvent.objects.get(action="certificate.key_policy_changed")
    assert changed.detail["key_policy"] == ["HYBRID", "DEVICE_REQUIRED"]
    removed = AuditEvent.objects.get(action="key.wraps_removed")
    assert (removed.detail["server"], removed.detail["devices"]) == (True, [])


# --- devices that change ---


@pytest.fixture
def enrol_again(django_capture_on_commit_callbacks):
    """`enrol_again(machine)` gives the machine another key, or its old one with `same_key`."""

    def enrol(machine: Machine, same_key: bool = False) -> None:
        if not same_key:
            machine.key = PrivateKey.generate()
        owner = machine.row.owner
        key = recipients.recipient_key(owner, bytes(machine.key.public_key))
        with django_capture_on_commit_callbacks(execute=True):
            machine.row.refresh_from_db()
            registration.enrol(owner, machine.row, key, {})
        machine.log_in()

    return enrol


def test_hybrid_wraps_for_the_new_key_of_a_device(deployed, machine, enrol_again):
    certificate = deployed(machine)
    enrol_again(machine)
    assert machine.serves(certificate.pk)
    assert KeyWrap.objects.filter(recipient_key__isnull=False).count() == 1
    assert told()[-1] == (machine.row.pk, "cert.updated")


def test_device_required_makes_a_new_key_for_the_new_key_of_a_device(
    deployed, machine, other, world, enrol_again
):
    certificate = deployed(machine, other, key_policy="DEVICE_REQUIRED")
    enrol_again(machine)
    assert machine.materials(certificate.pk).error["key"] == "DEVICES::WRAP_PENDING"
    assert other.serves(certificate.pk)
    world.deliver()
    assert machine.serves(certificate.pk)
    assert other.serves(certificate.pk)


def test_a_device_that_enrols_again_with_its_key_keeps_its_wraps(
    deployed, machine, world, enrol_again
):
    certificate = deployed(machine, key_policy="DEVICE_REQUIRED")
    enrol_again(machine, same_key=True)
    assert not Issuance.objects.open().exists()
    assert machine.serves(certificate.pk)


def test_a_revoked_device_that_enrols_again_is_served_again(deployed, machine, enrol_again):
    certificate = deployed(machine)
    devices.revoke_device(machine.row)
    enrol_again(machine, same_key=True)
    assert machine.serves(certificate.pk)


def test_a_device_that_gets_a_tag_gets_its_certificates(
    deployed, machine, django_capture_on_commit_callbacks
):
    certificate = deployed()
    services.assign_to_tag(certificate, "web")
    with django_capture_on_commit_callbacks(execute=True):
        devices.change_device(machine.row, {"tags": ["web"]})
    assert machine.serves(certificate.pk)
    with django_capture_on_commit_callbacks(execute=True):
        devices.change_device(machine.row, {"tags": []})
    assert machine.materials(certificate.pk).status_code == 404
    assert openers(certificate.current) == {SERVER}


def test_an_enrolment_succeeds_while_no_wrap_can_be_made(
    deployed, machine, enrol_again, monkeypatch
):
    certificate = deployed(machine)
    with monkeypatch.context() as patch:
        patch.setattr(masterkeys, "by_id", raises_unknown)
        enrol_again(machine)
    assert machine.materials(certificate.pk).error["key"] == "DEVICES::WRAP_PENDING"
    services.follow(read(certificate))
    assert machine.serves(certificate.pk)


def test_a_revoked_device_loses_its_wraps_at_once(deployed, machine, other, monkeypatch):
    certificate = deployed(machine, other, key_policy="DEVICE_REQUIRED")
    monkeypatch.setattr(masterkeys, "by_id", raises_unknown)
    devices.revoke_device(machine.row)
    assert openers(certificate.current) == {other.row.pk}


def test_a_revoked_device_is_left_out_of_the_next_version(deployed, machine, other, world):
    certificate = deployed(machine, other)
    devices.revoke_device(machine.row)
    assert openers(renewed(world, certificate)) == {SERVER, other.row.pk}
    assert certificate.deployments.count() == 2, "it is served again when it enrols again"


def test_each_wrap_is_in_the_audit_log(deployed, machine):
    certificate = deployed(machine)
    event = AuditEvent.objects.get(action="key.wrapped")
    assert event.object == str(certificate.current.key)
    assert event.detail == {"devices": [str(machine.row.key)]}
    services.unassign(certificate, machine.row)
    gone = AuditEvent.objects.get(action="key.wraps_removed")
    assert gone.detail == {"devices": [str(machine.row.key)], "server": False}


def test_a_policy_that_is_loosened_while_the_ca_is_asked_counts(deployed, machine, world):
    certificate = deployed(machine, key_policy="DEVICE_REQUIRED")
    world.zone.hides = True
    attempt = services.issue(certificate)
    world.deliver()
    assert services.update_certificate(read(certificate), {"key_policy": "HYBRID"}) == attempt
    world.zone.hides = False
    world.settle()
    assert read(certificate).current.issuance == attempt
    assert openers(read(certificate).current) == {SERVER, machine.row.pk}


@pytest.mark.parametrize("stays", [True, False])
def test_a_policy_that_is_loosened_after_the_csr_was_sent_counts_later(
    deployed, machine, world, stays
):
    certificate = deployed(machine, key_policy="DEVICE_REQUIRED")
    world.ca.processing_reads = 1
    attempt = services.issue(certificate)
    world.deliver()
    if not stays:
        services.unassign(certificate, machine.row)
    assert services.update_certificate(read(certificate), {"key_policy": "HYBRID"}) == attempt
    world.settle()
    assert read(certificate).current.issuance == attempt
    renewals.scan_renewals.run()
    world.settle()
    assert read(certificate).current.issuance != attempt
    assert openers(read(certificate).current) - {machine.row.pk} == {SERVER}


def test_a_new_tag_notifies_a_device_also_under_master_only(
    deployed, machine, django_capture_on_commit_callbacks
):
    certificate = deployed(key_policy="MASTER_ONLY", server_decrypt_export=True)
    services.assign_to_tag(certificate, "web")
    with django_capture_on_commit_callbacks(execute=True):
        devices.change_device(machine.row, {"tags": ["web"]})
    assert told() == [(machine.row.pk, "cert.updated")]
    assert machine.materials(certificate.pk).status_code == 200


def test_a_wrap_goes_with_its_tag_while_none_can_be_made(
    deployed, owner, machine, enrol_again, monkeypatch, django_capture_on_commit_callbacks
):
    tagged = Machine(owner, "web")
    certificate = deployed(machine)
    services.assign_to_tag(certificate, "web")
    monkeypatch.setattr(masterkeys, "by_id", raises_unknown)
    enrol_again(machine)
    with django_capture_on_commit_callbacks(execute=True):
        devices.change_device(tagged.row, {"tags": []})
    assert openers(certificate.current) == {SERVER}


# --- while the master key is away ---


@pytest.fixture
def vault(settings):
    with FakeVault() as made:
        settings.VAULT_ADDR, settings.VAULT_TOKEN = made.url, made.token
        settings.MASTER_KEYS_ELSEWHERE = ["6=vault:transit/certctrl"]
        yield made


def test_a_download_waits_for_the_master_key(vault, deployed, machine, world):
    """The new version appears with all its wraps, and nothing is ordered twice."""
    certificate = deployed(key_policy="HYBRID")
    services.assign(certificate, machine.row)
    orders = len(world.ca.orders)
    attempt = services.issue(read(certificate))
    world.messages.clear()
    for step in workflow.STEPS:
        vault.status = 503 if step.state == "finalized" else None
        workflow.take(step, attempt.pk)
    attempt.refresh_from_db()
    assert attempt.state == "finalized"
    assert read(certificate).current == certificate.current
    vault.status = None
    world.settle()
    attempt.refresh_from_db()
    assert attempt.state == "issued"
    assert len(world.ca.orders) == orders + 1
    assert openers(read(certificate).current) == {SERVER, machine.row.pk}


def test_an_end_of_an_assignment_needs_no_master_key(vault, deployed, owner, machine, enrol_again):
    """The other device has a new key, which cannot be wrapped for now."""
    certificate = deployed(machine, key_policy="HYBRID")
    other = Machine(owner)
    services.assign(certificate, other.row)
    vault.status = 503
    enrol_again(machine)
    services.unassign(certificate, other.row)
    assert openers(certificate.current) == {SERVER}


def test_an_assignment_while_the_master_key_is_away_changes_nothing(vault, deployed, machine):
    certificate = deployed(key_policy="HYBRID")
    vault.status = 503
    with pytest.raises(CannotOpen, match="unsealed"):
        services.assign(certificate, machine.row)
    assert openers(certificate.current) == {SERVER}
    assert not certificate.deployments.exists()
    vault.status = None
    services.assign(certificate, machine.row)
    assert openers(certificate.current) == {SERVER, machine.row.pk}
