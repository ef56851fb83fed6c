"""A renewal is never missed, after any change by a person and any failure in the same scan."""

from datetime import timedelta

import pytest

from authorities.errors import Refused
from certctrl import errors
from issuance import services
from issuance.beat import renewals
from issuance.models import Certificate, Issuance
from tests.fakes.ca import FakeClient
from tests.issuance.failing import issued, read

pytestmark = pytest.mark.django_db


def test_auto_renew_off_and_on_after_a_failed_renewal_renews_again(world, account, credential):
    certificate = issued(world, account, credential)
    world.ca.problems["new_order"] = [Refused("ca_caa", "No.")]
    services.issue(certificate)
    world.deliver()
    services.update_certificate(read(certificate), {"auto_renew": False})
    assert read(certificate).renew_at is None
    services.update_certificate(read(certificate), {"auto_renew": True})
    assert read(certificate).renew_at


def test_a_stale_update_does_not_erase_the_renewal(world, account, credential):
    certificate, _ = world.create(account, credential)
    stale = read(certificate)
    world.deliver()
    services.update_certificate(stale, {"organization": "Example"})
    assert read(certificate).renew_at


def test_auto_renew_switched_off_while_the_ca_is_asked_stays_off(
    world, account, credential, monkeypatch
):
    certificate, _ = world.create(account, credential)
    download = FakeClient.download

    def meanwhile(client, *args, **kwargs):
        services.update_certificate(read(certificate), {"auto_renew": False})
        return download(client, *args, **kwargs)

    monkeypatch.setattr(FakeClient, "download", meanwhile)
    world.deliver()
    assert read(certificate).current
    assert read(certificate).renew_at is None


def test_one_certificate_that_breaks_does_not_stop_the_scan(
    world, account, credential, monkeypatch
):
    bad, *good = [
        issued(world, account, credential, f"host{number}.example.com") for number in range(3)
    ]
    Certificate.objects.update(renew_at=world.time)
    new_issuance = services.new_issuance

    def breaks(certificate, *args, **kwargs):
        if certificate == bad:
            raise ValueError("broken")
        return new_issuance(certificate, *args, **kwargs)

    monkeypatch.setattr(services, "new_issuance", breaks)
    renewals.scan_renewals.run()
    assert set(Issuance.objects.open().values_list("certificate", flat=True)) == {
        each.pk for each in good
    }
    assert read(bad).renew_at, "it is tried by the next scan"


def test_a_certificate_that_must_not_renew_is_not_renewed(world, account, credential):
    certificate = issued(world, account, credential)
    Certificate.objects.update(auto_renew=False, renew_at=world.time)
    renewals.scan_renewals.run()
    assert not Issuance.objects.open().exists()
    assert read(certificate).renew_at is None


def test_device_required_is_not_tried_without_a_device(world, account, credential):
    certificate, _ = world.create(account, credential)
    world.ca.problems["new_order"] = [Refused("ca_caa", "No.")]
    world.deliver()
    services.update_certificate(read(certificate), {"key_policy": "DEVICE_REQUIRED"})
    world.advance(7200)
    renewals.scan_renewals.run()
    assert not Issuance.objects.open().exists()


def test_a_first_attempt_long_after_the_record_was_made_is_tried_again(world, account, credential):
    spec = world.spec(account, credential, "example.com")
    certificate, _ = services.create_certificate(account.owner, spec, issue=False)
    Certificate.objects.update(created_at=world.time - timedelta(days=8))
    world.ca.problems["new_order"] = [Refused("ca_dns", "SERVFAIL")]
    services.issue(read(certificate))
    world.deliver()
    assert read(certificate).renew_at


def test_a_new_request_after_a_week_is_retried_for_another_week(world, account, credential):
    world.ca.problems["new_order"] = [Refused("ca_dns", "SERVFAIL")] * 3
    certificate, _ = world.create(account, credential)
    Certificate.objects.update(failing_since=world.time - timedelta(days=8))
    world.deliver()
    assert read(certificate).renew_at is None
    services.issue(certificate)
    world.deliver()
    assert read(certificate).renew_at
    Issuance.objects.filter(reason="manual").update(created_at=world.time - timedelta(days=8))
    Certificate.objects.update(renew_at=world.time)
    renewals.scan_renewals.run()
    world.sweep()
    assert read(certificate).renew_at is None


def test_deleting_too_late_to_cancel_is_no_error(world, account, credential):
    world.ca.processing_reads = 3
    certificate, _ = world.create(account, credential)
    world.deliver()
    services.retire(read(certificate))
    world.settle(step=30)
    assert Issuance.objects.get().state == "issued"
    assert read(certificate).renew_at is None


def test_a_stale_renew_does_not_issue_what_was_deleted(world, account, credential):
    certificate = issued(world, account, credential)
    services.retire(read(certificate))
    with pytest.raises(errors.Conflict, match="was deleted"):
        services.issue(certificate)


@pytest.mark.parametrize("end", ["issued", "failed", "canceled"])
def test_no_end_plans_a_renewal_that_no_device_could_open(world, account, credential, end):
    certificate = issued(world, account, credential)
    services.issue(certificate)
    world.zone.hides = True
    world.deliver()
    Certificate.objects.update(key_policy="DEVICE_REQUIRED")
    world.zone.hides = False
    if end == "failed":
        world.ca.problems["finalize"] = [Refused("ca_caa", "No.")]
    if end == "canceled":
        services.cancel(read(certificate))
    world.advance(600)
    world.sweep()
    assert Issuance.objects.order_by("pk").last().state == end
    assert read(certificate).renew_at is None
