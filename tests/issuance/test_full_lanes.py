"""A party whose lane is full is not called, and the row that needs it is served later."""

import pytest

from authorities import catalog, clients, registration
from authorities.models import AcmeAccount
from certctrl.turns import Wait
from dnsproviders import registry
from issuance import services, workflow
from issuance.models import Issuance
from issuance.workflow import machine

pytestmark = pytest.mark.django_db
PENDING = AcmeAccount.Status.PENDING


def _take(attempt: Issuance, steps: int) -> None:
    for step in workflow.STEPS[:steps]:
        workflow.take(step, attempt.pk)


def test_no_record_is_written_through_a_full_api(world, account, credential, fill_lane):
    _, attempt = world.create(account, credential, "example.com")
    _take(attempt, 1)
    calls = fill_lane(registry.lane_of_credential(credential))
    world.settle(3, step=5)
    assert world.zone.txt() == []
    attempt.refresh_from_db()
    assert (attempt.state, attempt.stumbles) == (Issuance.State.ORDERED, 0)
    calls.close()
    world.settle(20, step=11)
    attempt.refresh_from_db()
    assert attempt.state == Issuance.State.ISSUED


def test_no_record_is_removed_through_a_full_api(world, account, credential, fill_lane):
    certificate, attempt = world.create(account, credential, "example.com")
    _take(attempt, 2)
    services.cancel(certificate)
    calls = fill_lane(registry.lane_of_credential(credential))
    world.settle(3, step=5)
    assert len(world.zone.txt()) == 1
    calls.close()
    world.settle(20, step=11)
    assert world.zone.txt() == []


def test_the_preflight_waits_for_a_full_api(world, account, credential, fill_lane):
    fill_lane(registry.lane_of_credential(credential))
    _, attempt = world.create(account, credential, "example.com")
    world.settle(3, step=5)
    attempt.refresh_from_db()
    assert (attempt.state, attempt.stumbles) == (Issuance.State.QUEUED, 0)


def test_nothing_is_asked_of_a_full_ca(world, account, credential, fill_lane):
    fill_lane(catalog.lane_of_account(account))
    _, attempt = world.create(account, credential, "example.com")
    world.settle(3, step=5)
    attempt.refresh_from_db()
    assert (attempt.state, attempt.is_open) == (Issuance.State.QUEUED, True)
    assert world.outside.calls == []


def test_no_order_is_given_up_at_a_full_ca(world, account, credential, fill_lane):
    world.ca.validation_reads = 1_000_000
    _, attempt = world.create(account, credential, "example.com")
    world.deliver()
    fill_lane(catalog.lane_of_account(account))
    Issuance.objects.update(deadline_at=world.time, wake_at=world.time)
    before = len(world.outside.calls)
    held = Issuance.objects.claim(attempt.pk)
    machine.put_back(workflow.STEP_AT[held.state], held, Wait(1))
    attempt.refresh_from_db()
    assert attempt.state == Issuance.State.FAILED
    assert [each for each in world.outside.calls[before:] if each.startswith("ca.")] == []


def test_no_account_is_registered_at_a_full_ca(world, owner, fill_lane):
    account = world.account(owner, url="", status=PENDING, wake_at=world.time)
    fill_lane(catalog.lane_of_account(account))
    with pytest.raises(Wait):
        registration.register(account.pk)
    account.refresh_from_db()
    assert (account.url, account.error_code) == ("", "")


def test_zerossl_is_not_asked_for_a_binding_through_a_full_lane(
    world, owner, fill_lane, monkeypatch
):
    account = world.account(
        owner, ca_provider="zerossl", directory_url="", url="", status=PENDING, wake_at=world.time
    )
    fill_lane(registration.EAB)
    asked = []
    monkeypatch.setattr(clients, "fetch_eab", asked.append)
    with pytest.raises(Wait):
        registration.register(account.pk)
    assert asked == []
