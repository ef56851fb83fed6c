"""The key of an attempt under DEVICE_REQUIRED, while devices and policy change."""

import threading

import pytest
from django.db import transaction

from certctrl.turns import Wait
from issuance import services, wraps
from issuance.models import Certificate, Issuance
from issuance.services import locks
from issuance.workflow import csr
from tests.devices.machine import Machine
from tests.issuance.racing import at_once, until_another_waits

pytestmark = pytest.mark.django_db
READS = ("certificate__owner", "certificate__current", "key")


@pytest.fixture
def renewing(deployed, owner):
    """Return a claimed attempt that renews a certificate of one device."""
    certificate = deployed(Machine(owner), key_policy="DEVICE_REQUIRED")
    issuance = services.request_issuance(certificate)
    return Issuance.objects.select_related(*READS).claim(issuance.pk)


def test_a_policy_that_changed_since_the_claim_takes_a_new_key(renewing):
    csr.make(renewing)
    sealed = renewing.key
    Certificate.objects.update(key_policy="HYBRID")
    csr.replace_unfit(renewing)
    assert (renewing.key.policy, renewing.key != sealed) == ("HYBRID", True)


@pytest.mark.parametrize("policy", ["DEVICE_REQUIRED", "MASTER_ONLY"])
def test_a_policy_that_changes_while_a_key_is_replaced_is_seen(renewing, monkeypatch, policy):
    csr.make(renewing)
    sealed = renewing.key_id
    Certificate.objects.update(key_policy="HYBRID")
    real = csr.pki.new_key

    def changes_meanwhile(*kind):
        certificate = Certificate.objects.get()
        services.update_certificate(certificate, {"key_policy": policy})
        return real(*kind)

    monkeypatch.setattr(csr.pki, "new_key", changes_meanwhile)
    with pytest.raises(Wait):
        csr.replace_unfit(renewing)
    monkeypatch.undo()
    kept = Issuance.objects.select_related(*READS).get(pk=renewing.pk)
    assert kept.key_id == sealed
    csr.replace_unfit(kept)
    assert kept.key.policy == policy
    is_opened_here = kept.key.wraps.exclude(master_key_id=None).exists()
    assert is_opened_here == (policy == "MASTER_ONLY")


def test_a_key_that_fits_is_kept(renewing):
    csr.make(renewing)
    sealed = renewing.key
    csr.replace_unfit(renewing)
    assert renewing.key == sealed


@pytest.mark.postgres
@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_an_assignment_and_a_new_key_do_not_wait_for_each_other(renewing):
    """Both lock the attempt first, and then the devices."""
    locked = threading.Event()

    def assign() -> None:
        with transaction.atomic():
            locks.lock(renewing.certificate)
            locked.set()
            until_another_waits()
            assert wraps.public_keys(renewing.certificate)

    def make() -> None:
        assert locked.wait(30)
        csr.make(renewing)

    assert at_once(assign, make) == [None, None]
    assert Issuance.objects.get(pk=renewing.pk).key
