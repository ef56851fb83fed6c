"""One certificate, from the request to the stored version."""

import pytest

from certctrl import clock
from dnsclient import cnames
from dnsproviders.models import TxtRecord
from issuance import services, workflow
from issuance.models import CertificateVersion, Issuance

pytestmark = pytest.mark.django_db


def test_an_undisturbed_attempt_is_issued_in_one_go_and_leaves_no_record(
    world, account, credential
):
    certificate, issuance = world.create(account, credential)
    world.deliver()
    issuance.refresh_from_db()
    certificate.refresh_from_db()
    assert issuance.state == Issuance.State.ISSUED
    assert certificate.current.issuance == issuance
    assert certificate.renew_at < certificate.expires_at
    world.settle()
    assert world.zone.txt() == []
    assert TxtRecord.objects.filter(cleaned_at=None).count() == 0


def test_the_owner_reads_each_step_as_an_event(world, account, credential):
    _, issuance = world.create(account, credential)
    world.deliver()
    done = [(event.step, event.outcome) for event in issuance.events.order_by("pk")]
    assert done == [
        (step, "done")
        for step in ("order", "present", "propagate", "validate", "finalize", "download")
    ]


def test_the_chain_costs_one_message(world, account, credential):
    world.create(account, credential)
    world.deliver()
    assert world.sent == ["chain"]


def test_a_message_sent_twice_changes_nothing(world, account, credential):
    _, issuance = world.create(account, credential)
    world.deliver()
    world.chain(issuance.pk, Issuance.State.QUEUED)
    assert CertificateVersion.objects.count() == 1
    assert world.outside.calls.count("ca.new_order") == 1


def test_a_lost_message_is_sent_again_by_the_sweep(world, account, credential, settings):
    world.create(account, credential)
    world.messages.clear()
    world.sweep()
    assert Issuance.objects.get().state == Issuance.State.QUEUED, (
        "a message may still be on its way"
    )
    world.advance(settings.RESEND + 1)
    world.sweep()
    assert Issuance.objects.get().state == Issuance.State.ISSUED


@pytest.mark.parametrize("had_preflight", [True, False])
def test_cnames_are_followed_once_and_in_one_batch(
    world, account, credential, monkeypatch, had_preflight
):
    batches = []

    def follow(names, seconds):
        batches.append(sorted(names))
        return world.zone.follow(names, seconds)

    monkeypatch.setattr(cnames, "follow", follow)
    names = sorted(f"host{number}.example.com" for number in range(20))
    _, issuance = world.create(account, credential, *names)
    if had_preflight:  # a turn before this one
        Issuance.objects.update(preflighted_at=clock.now())
    assert workflow.take(workflow.STEPS[0], issuance.pk)
    assert batches == ([names] if had_preflight else [])


def test_the_zone_that_the_preflight_saw_is_not_asked_for_again(world, account, credential):
    world.create(account, credential, "www.example.com")
    world.deliver()
    assert world.outside.calls.count("zone.zone_of") == 1
    assert TxtRecord.objects.get().zone == "example.com"


def test_no_cname_is_followed_where_every_name_is_proved(world, account, credential, monkeypatch):
    certificate, _ = world.create(account, credential)
    world.deliver()
    monkeypatch.setattr(cnames, "follow", None)
    world.ca.reuses_authorizations = True
    again = services.issue(certificate)
    assert workflow.take(workflow.STEPS[0], again.pk)
