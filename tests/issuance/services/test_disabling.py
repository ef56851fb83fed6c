"""A DNS provider that the operator has disabled: attempts wait, and records are still removed."""

import pytest
from django.db import OperationalError

from accounts.models import AuditEvent
from authorities import accounts, privateca
from certctrl.errors import Conflict
from dnsproviders import registry as provider_registry
from dnsproviders.base import Provider
from dnsproviders.models import DisabledProvider, DnsCredential, TxtRecord
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


def test_an_attempt_that_waits_for_a_limit_gives_up_its_moment(
    world, account, credential, disable, settings
):
    settings.ACME_CAS = {"custom": {"limits": {"account": [1, 7200]}}}
    issued(world, account, credential, "www.example.com")
    _, issuance = world.create(account, credential, "new.example.com")
    world.deliver()
    issuance.refresh_from_db()
    assert issuance.slot_at
    disable()
    world.settle(40, 1200)
    issuance.refresh_from_db()
    assert issuance.slot_at is None
    assert "is disabled" in issuance.waits_for


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


@pytest.mark.parametrize("number", [0, 1])
def test_an_attempt_in_its_turn_goes_on_when_the_provider_is_enabled(
    world, account, credential, owner, disable, monkeypatch, number
):
    _, issuance = world.create(account, credential)
    for step in workflow.STEPS[:number]:
        workflow.take(step, issuance.pk)
    row = disable()
    be_usable = Dns01.be_usable

    def enabled_meanwhile(challenge: Dns01, issuance: Issuance) -> None:
        try:
            be_usable(challenge, issuance)
        finally:
            services.enable_provider(row, owner)

    monkeypatch.setattr(Dns01, "be_usable", enabled_meanwhile)
    workflow.take(workflow.STEPS[number], issuance.pk)
    assert attempt().wake_at <= world.time
    monkeypatch.setattr(Dns01, "be_usable", be_usable)
    world.deliver()
    world.sweep()
    assert attempt().state not in (State.QUEUED, State.ORDERED)


def test_an_error_after_the_turn_of_such_an_attempt_ends_the_walk_well(
    world, account, credential, disable, monkeypatch
):
    _, issuance = world.create(account, credential)
    disable()

    def fail(*given: object, **keys: object) -> None:
        raise OperationalError("the database is away")

    monkeypatch.setattr(DisabledProvider.objects, "filter", fail)
    ended = []
    workflow.walk(workflow.STEPS[0], issuance.pk, ended.append)
    assert ended
    assert attempt().wake_at > world.time
    assert attempt().holder == ""


def test_an_attempt_wakes_when_its_record_found_the_provider_disabled(
    world, account, credential, owner, disable, monkeypatch
):
    _, issuance = world.create(account, credential)
    workflow.take(workflow.STEPS[0], issuance.pk)
    open_credential = provider_registry.open_credential

    def enabled_meanwhile(credential: DnsCredential) -> Provider:
        row = DisabledProvider.objects.get()
        try:
            return open_credential(credential)
        finally:
            services.enable_provider(row, owner)

    monkeypatch.setattr(Dns01, "be_usable", lambda challenge, issuance: disable())
    monkeypatch.setattr(provider_registry, "open_credential", enabled_meanwhile)
    workflow.take(workflow.STEPS[1], issuance.pk)
    assert "is disabled" in attempt().waits_for
    assert attempt().wake_at <= world.time


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


def test_renewals_that_wait_hold_up_no_other_of_their_owner(
    world, account, credential, owner, disable, settings
):
    settings.ACME_CAS = {"custom": {"limits": {"account": [2, 7200]}}}
    other = world.credential(owner, provider="cloudflare")
    ids = []
    for each, name in ((credential, "a.test"), (credential, "b.test"), (other, "c.test")):
        spec = world.spec(account, each, name)
        certificate, _ = services.create_certificate(owner, spec, issue=False)
        ids.append(certificate.pk)
    row = disable()
    for pk in ids:
        Certificate.objects.filter(pk=pk).update(renew_at=world.time)
        scan_renewals()
        world.sweep()
    states = Issuance.objects.order_by("pk").values_list("state", flat=True)
    assert list(states) == [State.QUEUED, State.QUEUED, State.ISSUED]
    services.enable_provider(row, owner)
    world.settle(40, 1200)
    assert {each.state for each in Issuance.objects.all()} == {State.ISSUED}


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
