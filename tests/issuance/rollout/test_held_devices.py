"""A device that is held back fetches, and opens, the version that it wants and no newer one."""

import pytest
from nacl.public import PrivateKey  # noqa: TID251

from certctrl import clock
from devices import registration
from devices import services as devices
from issuance import services
from issuance.models import Certificate, CertificateVersion, Deployment
from keystore import recipients
from keystore.models import KeyWrap
from tests.devices.machine import Machine
from tests.issuance.api.calling import Caller, refused

pytestmark = pytest.mark.django_db
POLICIES = ["HYBRID", "DEVICE_REQUIRED", "MASTER_ONLY"]


class Pair:
    """A canary and another machine, in the middle of a rollout of the second version."""

    def __init__(self, world, deployed, owner, **fields):
        self.world = world
        self.machines = [Machine(owner, name=name) for name in ("canary", "other")]
        self.certificate = deployed(*self.machines, rollout="canary", **fields)
        self.first = self.certificate.current
        services.issue(Certificate.objects.get())
        world.deliver()
        self.second = Certificate.objects.get().current
        assert self.second != self.first

    @property
    def pk(self) -> int:
        return self.certificate.pk

    def serial_of(self, machine) -> str:
        return machine.get(f"certificates/{self.pk}").data_member["serial_number"]

    def report(self, machine, state="served", what=""):
        serial = self.second.serial
        event = {"type": "deployment", "cert_id": self.pk, "serial": serial, "state": state}
        body = {"events": [event | {"what": what}]}
        assert machine.client.post("/apiv1/devices/self/notify", body).status_code == 204
        self.world.sweep()


def openers(version: CertificateVersion) -> set[str]:
    wraps = KeyWrap.objects.filter(envelope=version.key, recipient_key__isnull=False)
    return set(wraps.values_list("recipient_key__devices__name", flat=True))


@pytest.fixture
def pair(world, deployed, owner):
    return lambda **fields: Pair(world, deployed, owner, **fields)


@pytest.mark.parametrize("policy", POLICIES[:2])
def test_each_machine_opens_the_version_that_it_wants(pair, policy):
    both = pair(key_policy=policy)
    canary, other = both.machines
    assert both.serial_of(canary) == both.second.serial
    assert both.serial_of(other) == both.first.serial
    assert canary.serves(both.pk)
    assert other.serves(both.pk)
    assert (openers(both.first), openers(both.second)) == ({"other"}, {"canary", "other"})
    both.report(canary)
    assert both.serial_of(other) == both.second.serial
    assert other.serves(both.pk)
    assert (openers(both.first), openers(both.second)) == (set(), {"canary", "other"})


def test_under_master_only_the_held_machine_gets_the_old_key(pair):
    both = pair(key_policy="MASTER_ONLY", server_decrypt_export=True)
    chains = [each.materials(both.pk).data_member["certificate_pem"] for each in both.machines]
    assert chains == [both.second.chain_pem, both.first.chain_pem]


def test_the_chain_and_the_key_are_of_one_version(pair):
    both = pair()
    shown = both.machines[1].get(f"certificates/{both.pk}").data_member
    assert shown["cert"] == both.first.chain_pem
    assert shown["csr"] == both.first.issuance.csr_pem
    assert shown["not_after"] == int(both.first.not_after.timestamp())
    assert shown["fingerprint_sha256"] == both.first.fingerprint


def test_the_owner_sees_the_newest_version_and_what_each_device_has(pair, client_of, owner):
    both = pair()
    canary, _ = both.machines
    canary.materials(both.pk)
    api = Caller(client_of(owner))
    assert api.get(f"certificates/{both.pk}").data_member["serial_number"] == both.second.serial
    rows = {
        each["name"]: each["deployment"]
        for each in api.get(f"certificates/{both.pk}/devices").data_member
    }
    now = int(clock.now().timestamp())
    assert rows["canary"]["wanted"]["serial"] == both.second.serial
    assert rows["canary"]["fetched"] == {"serial": both.second.serial, "at": now}
    assert rows["other"]["wanted"]["serial"] == both.first.serial
    assert rows["other"]["fetched"] is rows["other"]["failed"] is None
    assert rows["other"]["next_look_at"] > now
    both.report(canary, "rolled_back", "nginx -t failed")
    rows = {
        each["name"]: each["deployment"]
        for each in api.get(f"certificates/{both.pk}/devices").data_member
    }
    failed = {"serial": both.second.serial, "at": now, "state": "rolled_back"}
    assert rows["canary"]["failed"] == failed | {"what": "nginx -t failed"}


def test_a_refused_fetch_is_not_noted(pair):
    both = pair(key_policy="MASTER_ONLY")
    refused(both.machines[0].materials(both.pk), 403)
    assert set(Deployment.objects.values_list("fetched_serial", flat=True)) == {""}


@pytest.mark.parametrize("policy", POLICIES[:2])
def test_a_held_machine_with_a_new_key_gets_the_newest_version(
    pair, owner, world, policy, django_capture_on_commit_callbacks
):
    both = pair(key_policy=policy)
    other = both.machines[1]
    other.key = PrivateKey.generate()
    key = recipients.recipient_key(owner, bytes(other.key.public_key))
    other.row.refresh_from_db()
    with django_capture_on_commit_callbacks(execute=True):
        registration.enrol(owner, other.row, key, {})
    world.settle()
    other.log_in()
    assert both.serial_of(other) != both.first.serial
    assert other.serves(both.pk)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_machine_that_was_revoked_meanwhile_gets_the_newest_version(
    deployed, owner, world, policy, django_capture_on_commit_callbacks
):
    machines = [Machine(owner, name=name) for name in ("web1", "web2")]
    export = policy == "MASTER_ONLY"
    certificate = deployed(*machines, key_policy=policy, server_decrypt_export=export)
    away = machines[1]
    with django_capture_on_commit_callbacks(execute=True):
        devices.revoke_device(away.row)
    services.issue(Certificate.objects.get())
    world.settle()
    away.row.refresh_from_db()
    key = recipients.recipient_key(owner, bytes(away.key.public_key))
    with django_capture_on_commit_callbacks(execute=True):
        registration.enrol(owner, away.row, key, {})
    world.settle()
    away.log_in()
    shown = away.get(f"certificates/{certificate.pk}").data_member
    assert shown["serial_number"] == Certificate.objects.get().current.serial
    assert away.materials(certificate.pk).status_code == 200


def test_a_change_of_the_policy_ends_the_hold(pair):
    both = pair()
    services.update_certificate(Certificate.objects.get(), {"key_policy": "DEVICE_REQUIRED"})
    assert {both.serial_of(each) for each in both.machines} == {both.second.serial}
    assert both.machines[1].serves(both.pk)
    assert openers(both.first) == set()


def test_a_device_that_is_assigned_meanwhile_gets_the_newest_version(pair, owner):
    both = pair()
    third = Machine(owner, name="third")
    services.assign(Certificate.objects.get(), third.row)
    assert both.serial_of(third) == both.second.serial
    assert third.serves(both.pk)
    assert both.serial_of(both.machines[1]) == both.first.serial


def test_a_version_without_a_key_is_not_handed_out(pair):
    both = pair()
    CertificateVersion.objects.filter(pk=both.first.pk).update(key=None)
    assert both.serial_of(both.machines[1]) == both.second.serial
    assert both.machines[1].serves(both.pk)


def test_a_held_machine_that_is_unassigned_opens_nothing(pair):
    both = pair()
    services.unassign(Certificate.objects.get(), both.machines[1].row)
    refused(both.machines[1].materials(both.pk), 404)
    assert (openers(both.first), openers(both.second)) == (set(), {"canary"})
