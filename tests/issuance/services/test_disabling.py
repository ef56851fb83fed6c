"""A DNS provider that the operator has disabled: attempts wait, and records are still removed."""

from datetime import timedelta

import pytest

from accounts.models import AuditEvent
from authorities import accounts, privateca
from certctrl.errors import Conflict
from dnsproviders.models import DisabledProvider, TxtRecord
from issuance import preflight, services, workflow
from issuance.beat.renewals import scan_renewals
from issuance.challenges.dns01 import Dns01
from issuance.models import Certificate, Issuance
from tests.issuance.failing import issued

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]
State = Issuance.State


@pytest.fixture
def disable(owner):
    return lambda: services.disable_provider("httpreq", owner, "its API has an outage.")


def attempt() -> Issuance:
    return Issuance.objects.get()


def test_nobody_starts_an_attempt_that_needs_it(world, account, credential, disable):
    certificate = issued(world, account, credential, "www.example.com")
    disable()
    with pytest.raises(
        Conflict, match=r"HTTP request is disabled on this server.*an outage\. Choose"
    ):
        services.issue(certificate)
    with pytest.raises(Conflict, match="is disabled"):
        world.create(account, credential, "new.example.com")
    assert Certificate.objects.count() == 1


def test_a_new_attempt_waits_without_an_order(world, account, credential, owner, disable):
    world.create(account, credential)
    row = disable()
    world.deliver()
    assert attempt().state == State.QUEUED
    assert "goes on by itself when it is enabled" in attempt().waits_for
    assert world.ca.orders == {}
    services.enable_provider(row, owner)
    world.settle()
    assert attempt().state == State.ISSUED
    assert world.zone.txt() == []


def test_an_attempt_with_an_order_waits_without_a_record(
    world, account, credential, owner, disable
):
    _, issuance = world.create(account, credential)
    workflow.take(workflow.STEPS[0], issuance.pk)
    row = disable()
    workflow.take(workflow.STEPS[1], issuance.pk)
    assert attempt().state == State.ORDERED
    assert "is disabled" in attempt().waits_for
    assert not TxtRecord.objects.filter(intent_at__isnull=False).exists()
    services.enable_provider(row, owner)
    assert attempt().wake_at <= world.time
    world.settle()
    assert attempt().state == State.ISSUED
    assert len(world.ca.orders) == 1


def test_a_provider_that_is_disabled_in_a_turn_is_not_called(
    world, account, credential, disable, monkeypatch
):
    _, issuance = world.create(account, credential)
    workflow.take(workflow.STEPS[0], issuance.pk)
    monkeypatch.setattr(Dns01, "be_usable", lambda challenge, issuance: disable())
    workflow.take(workflow.STEPS[1], issuance.pk)
    assert attempt().state == State.ORDERED
    assert "is disabled" in attempt().waits_for
    assert world.zone.txt() == []


def test_an_attempt_whose_records_are_written_ends_and_removes_them(
    world, account, credential, disable
):
    world.zone.hides = True
    world.create(account, credential)
    world.deliver()
    assert len(world.zone.txt()) == 2
    disable()
    world.zone.hides = False
    world.settle()
    assert attempt().state == State.ISSUED
    assert world.zone.txt() == []


def test_a_canceled_attempt_leaves_no_record(world, account, credential, disable):
    world.zone.hides = True
    certificate, _ = world.create(account, credential)
    world.deliver()
    disable()
    services.cancel(certificate)
    world.settle()
    assert world.zone.txt() == []


def test_an_attempt_waits_for_days_and_does_not_fail(world, account, credential, owner, disable):
    _, issuance = world.create(account, credential)
    workflow.take(workflow.STEPS[0], issuance.pk)
    row = disable()
    for _ in range(200):
        world.advance(1200)
        world.sweep()
    assert attempt().state == State.ORDERED
    waits = attempt().events.filter(step="present")
    assert waits.count() == 1
    services.enable_provider(row, owner)
    world.sweep()
    assert attempt().state not in (State.ORDERED, State.FAILED)


def test_a_renewal_waits_and_holds_up_no_other_attempt(world, account, credential, disable):
    certificate = issued(world, account, credential, "www.example.com")
    Certificate.objects.update(renew_at=world.time)
    disable()
    scan_renewals()
    world.sweep()
    renewal = certificate.issuances.latest("pk")
    assert renewal.state == State.QUEUED
    assert "is disabled" in renewal.waits_for
    # An attempt that sleeps after a trouble is left out of the queues of the limits.
    assert renewal.stumbles == 1
    assert renewal.wake_at > world.time + timedelta(minutes=10)


def test_a_private_ca_needs_no_provider(world, owner, credential, disable):
    disable()
    private_ca = privateca.create_private_ca(owner, {"name": "example CA"})
    account = accounts.account_of_private_ca(private_ca)
    world.create(account, credential, "www.example.com")
    assert Certificate.objects.get().account.is_private
    assert world.ca.orders  # the fake CA stands for the private one


def test_the_preflight_names_the_disabled_provider(world, account, credential, disable):
    certificate, _ = world.create(account, credential)
    disable()
    found = preflight.run(Certificate.objects.get(pk=certificate.pk))
    assert [(each.code, each.blocks) for each in found] == [("provider_disabled", True)]
    assert "an outage" in found[0].what


def test_a_provider_is_disabled_and_enabled_once_in_the_audit_log(owner, disable):
    row = disable()
    assert disable() == row
    services.enable_provider(row, owner)
    row = DisabledProvider(pk=row.pk, provider="httpreq")
    with pytest.raises(Conflict, match="enabled already"):
        services.enable_provider(row, owner)
    events = AuditEvent.objects.filter(object="dns_provider:httpreq").order_by("pk")
    assert [each.action for each in events] == ["dns_provider.disabled", "dns_provider.enabled"]
    assert events[0].detail == {"why": "its API has an outage."}
