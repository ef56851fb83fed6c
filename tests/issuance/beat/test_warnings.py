"""The hourly search for certificates that end soon, and for records that could not be removed."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from dnsproviders.base import ProviderError
from dnsproviders.models import TxtRecord
from issuance import notify
from issuance.beat import renewals, warnings
from issuance.models import Certificate, CertificateVersion
from notices.models import Notice

pytestmark = pytest.mark.django_db
Kind = Notice.Kind
DAY = timedelta(days=1)


@pytest.fixture
def issue(world, account, credential):
    """`issue(90)` makes a certificate of 90 days that nothing renews."""

    def build(days: float, domain: str = "example.com", **fields) -> Certificate:
        world.ca.life = timedelta(days=days)
        certificate, _ = world.create(account, credential, domain)
        world.deliver()
        world.settle()
        Certificate.objects.filter(pk=certificate.pk).update(**fields)
        certificate.refresh_from_db()
        return certificate

    return build


def subjects(kind: str = Kind.EXPIRING) -> list[str]:
    return list(Notice.objects.filter(kind=kind).order_by("pk").values_list("subject", flat=True))


def look_for(world, days: float) -> None:
    """Run the task every four hours for `days` days."""
    for _ in range(round(days * 6)):
        world.advance(4 * 3600)
        warnings.warn_expiry.run()


def look_for_a_life(world, days: float) -> None:
    """Run the task at the birth, and during the second half of `days` days."""
    warnings.warn_expiry.run()
    assert subjects() == []
    world.advance(days / 2 * 86400 - 60)
    look_for(world, days / 2)


@pytest.mark.slow
def test_an_unrenewed_certificate_is_warned_about_at_14_7_3_and_1_days(world, issue):
    certificate = issue(90)
    world.advance(75 * 86400)
    look_for(world, 16)
    assert subjects() == [
        f"example.com expires in {left}" for left in ("14 days", "7 days", "3 days", "24 hours")
    ]
    first = Notice.objects.order_by("pk").first()
    assert (
        f"valid until {certificate.expires_at:%Y-%m-%d %H:%M} UTC, and there is no new one yet"
        in first.body
    )
    assert first.data["days"] == 14
    assert first.data["expires_at"] == f"{certificate.expires_at:%Y-%m-%dT%H:%M:%SZ}"
    assert first.data["certificate_id"] == certificate.pk


def test_a_late_round_sends_only_the_current_warning(world, issue):
    issue(90)
    world.advance((90 - 2.2) * 86400)
    warnings.warn_expiry.run()
    warnings.warn_expiry.run()
    assert subjects() == ["example.com expires in 2 days"]


@pytest.mark.slow
def test_a_successor_is_not_warned_of(world, issue, account, credential):
    issue(90)
    world.advance(60 * 86400)
    Certificate.objects.update(renew_at=world.time)
    renewals.scan_renewals.run()
    world.sweep()
    look_for(world, 30)
    assert subjects() == []


def test_a_warning_says_why_renewal_failed_and_when_it_is_retried(world, issue):
    certificate = issue(90)
    world.advance(80 * 86400)
    at = world.time + timedelta(hours=5)
    certificate.issuances.create(
        account=certificate.account,
        names_key="x",
        reason="renewal",
        state="failed",
        state_since=world.time,
        deadline_at=world.time,
        error_what="The CA refused: CAA forbids it.",
    )
    Certificate.objects.update(renew_at=at)
    warnings.warn_expiry.run()
    body = Notice.objects.get().body
    assert "The last attempt failed. The CA refused: CAA forbids it. The next attempt is at" in body
    assert f"{at:%Y-%m-%d %H:%M} UTC" in body


@pytest.mark.slow
@pytest.mark.parametrize(
    ("days", "warned"), [(6, [1]), (7, [3, 1]), (10, [3, 1]), (30, [7, 3, 1]), (45, [14, 7, 3, 1])]
)
def test_short_lives_are_warned_of_after_their_normal_renewal_only(world, issue, days, warned):
    issue(days)
    look_for_a_life(world, days)
    assert [each.data["days"] for each in Notice.objects.order_by("pk")] == warned


@pytest.mark.slow
@pytest.mark.parametrize(("days", "warned"), [(6, [1]), (45, [14, 7, 3, 1]), (20, [7, 3, 1])])
def test_a_certificate_without_renewal_warns_in_its_second_half(world, issue, days, warned):
    issue(days, auto_renew=False)
    look_for_a_life(world, days)
    assert [each.data["days"] for each in Notice.objects.order_by("pk")] == warned
    assert "Automatic renewal is off" in Notice.objects.first().body


@pytest.mark.parametrize(
    ("rows", "field"), [(Certificate, "retired_at"), (CertificateVersion, "revoked_at")]
)
def test_retired_and_revoked_certificates_are_not_warned_about(world, issue, rows, field):
    issue(90)
    rows.objects.update(**{field: world.time})
    world.advance(85 * 86400)
    warnings.warn_expiry.run()
    assert subjects() == []


def test_one_failing_warning_does_not_stop_the_others(world, issue, monkeypatch):
    broken = issue(90, "broken.example.com")
    issue(90, "whole.example.com")
    world.advance(85 * 86400)
    real = notify.expiring

    def fail(certificate, now):
        if certificate == broken:
            raise ArithmeticError
        real(certificate, now)

    monkeypatch.setattr(notify, "expiring", fail)
    warnings.warn_expiry.run()
    assert subjects() == ["whole.example.com expires in 5 days"]


@pytest.mark.postgres
def test_batches_reach_every_certificate_once(world, issue, monkeypatch):
    monkeypatch.setattr(notify, "BATCH", 2)
    for number in range(5):
        issue(90, f"host{number}.example.com")
    Certificate.objects.update(expires_at=world.time + DAY)
    seen = list(notify.near_expiry(world.time))
    assert sorted(each.domain for each in seen) == [
        f"host{number}.example.com" for number in range(5)
    ]


@pytest.mark.slow
@pytest.mark.postgres
def test_certificates_near_expiry_are_found_by_the_index(world, issue):
    issue(90)
    world.advance(86 * 86400)
    later = world.time + timedelta(days=60)
    example = Certificate.objects.get()
    Certificate.objects.bulk_create(
        Certificate(
            owner=example.owner,
            domain=f"host{number}.example.com",
            names=[],
            account=example.account,
            request_digest=str(number),
            expires_at=later,
        )
        for number in range(3000)
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE issuance_certificate")
    with CaptureQueriesContext(connection) as queries:
        assert [each.pk for each in notify.near_expiry(world.time)] == [example.pk]
    assert len(queries) == 2
    last = world.time + timedelta(days=14)
    soon = Certificate.objects.filter(
        retired_at=None, expires_at__lte=last, expires_at__gte=world.time
    )
    plan = soon.order_by("expires_at", "pk")[:500].explain()
    assert "certificates_by_expiry" in plan
    assert "SCAN issuance_certificate\n" not in plan
    assert "Seq Scan" not in plan


# --- records ---


@pytest.fixture
def stuck(world, account, credential):
    """A record that its provider does not remove."""
    world.create(account, credential, "example.com")
    world.deliver()
    world.zone.refuses = [ProviderError("dns_unreachable", "The API does not answer.")] * 1000
    world.sweep()
    return TxtRecord.objects.get()


def test_a_record_left_behind_is_reported_once_after_a_day(world, stuck, credential):
    warnings.warn_expiry.run()
    look_for(world, 20 / 24)
    assert subjects(Kind.RECORD_LEFT_BEHIND) == []
    look_for(world, 2)
    assert subjects(Kind.RECORD_LEFT_BEHIND) == [
        "The TXT record _acme-challenge.example.com was left behind"
    ]
    notice = Notice.objects.get(kind=Kind.RECORD_LEFT_BEHIND)
    assert "DNS credential a zone. The API does not answer." in notice.body
    assert "You may remove the record by hand" in notice.body
    assert (notice.data["record"], notice.data["value"]) == (
        "_acme-challenge.example.com",
        stuck.value,
    )
    assert (notice.owner, notice.data["dns_provider_id"]) == (credential.owner, credential.pk)


def test_a_removed_record_is_not_reported(world, stuck):
    world.zone.refuses = []
    world.settle()
    look_for(world, 3)
    assert subjects(Kind.RECORD_LEFT_BEHIND) == []


def test_a_record_in_use_is_not_left_behind(world, account, credential):
    world.zone.hides = True
    world.create(account, credential, "example.com")
    world.deliver()
    TxtRecord.objects.update(intent_at=world.time - 2 * DAY, left_behind="an older attempt's words")
    warnings.warn_expiry.run()
    assert subjects(Kind.RECORD_LEFT_BEHIND) == []


def test_a_certificate_that_ended_during_an_outage_makes_one_notice(world, issue):
    issue(90)
    world.advance(92 * 86400)
    warnings.warn_expiry.run()
    warnings.warn_expiry.run()
    assert subjects() == ["example.com has expired"]
    assert "was valid until" in Notice.objects.get(kind=Kind.EXPIRING).body
