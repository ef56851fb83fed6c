"""What the hourly pruning deletes, and what it must leave."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import AuditEvent, Session
from authorities.models import Exchange
from certctrl import retention
from certctrl.turns import Trouble
from dnsproviders.models import TxtRecord
from issuance import ratelimits, services
from issuance.beat import pruning
from issuance.models import (
    Authorization,
    Certificate,
    CertificateVersion,
    Issuance,
    IssuanceEvent,
    RenewalInfo,
    RequestKey,
    digest,
)
from issuance.services import Idempotency
from keystore.models import Envelope
from notices import raising
from notices.models import Delivery, Notice
from tests.issuance.failing import CAA, issued, read

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]

DAY = 86400.0
State = Issuance.State


@pytest.fixture(autouse=True)
def _one_clock(world, monkeypatch):
    """Columns with `auto_now_add` follow the clock of the test too."""
    monkeypatch.setattr(timezone, "now", lambda: world.time)


def pass_days(world, days: float) -> None:
    world.advance(days * DAY)
    pruning.prune.run()


def renewed(world, certificate: Certificate) -> CertificateVersion:
    """Renew the certificate, and return its new version."""
    services.issue(read(certificate))
    world.deliver()
    world.settle()
    return read(certificate).current


def failed(world, certificate: Certificate, problem: Exception = CAA) -> Issuance:
    """Return a new attempt of the certificate that has failed."""
    world.ca.problems = {"new_order": [problem]}
    attempt = services.issue(read(certificate))
    world.deliver()
    attempt.refresh_from_db()
    assert attempt.state == State.FAILED
    return attempt


def exists(row) -> bool:
    return type(row)._base_manager.filter(pk=row.pk).exists()


# --- versions and their keys ---


def test_the_key_of_a_replaced_version_goes_when_it_expires(world, account, credential):
    world.ca.life = timedelta(days=45)
    old = issued(world, account, credential).current
    pass_days(world, 30)
    new = renewed(world, old.certificate)
    pass_days(world, 14)
    assert exists(old.key)
    pass_days(world, 2)
    old.refresh_from_db()
    assert old.key is None
    assert old.issuance.key is None
    assert exists(new.key)


def test_the_key_of_a_replaced_version_stays_for_its_days(world, account, credential, settings):
    settings.KEEP_OLD_KEYS = timedelta(days=10)
    old = issued(world, account, credential).current
    pass_days(world, 60)
    renewed(world, old.certificate)
    pass_days(world, 39)
    assert exists(old.key)
    pass_days(world, 2)
    assert not exists(old.key)


def test_the_version_in_use_keeps_its_key_after_it_expired(world, account, credential):
    version = issued(world, account, credential, auto_renew=False).current
    pass_days(world, 1000)
    version.refresh_from_db()
    assert exists(version.key)
    assert exists(version.issuance)


def test_an_expired_version_that_was_replaced_goes_with_its_attempt(world, account, credential):
    world.ca.life = timedelta(days=30)
    old = issued(world, account, credential).current
    attempt = old.issuance
    new = renewed(world, old.certificate)
    pass_days(world, 89)
    assert exists(old)
    pass_days(world, 2)
    assert not exists(old)
    assert not exists(attempt)
    assert exists(new)


def test_a_version_that_is_valid_stays_with_its_attempt(world, account, credential):
    world.ca.life = timedelta(days=365)
    old = issued(world, account, credential).current
    renewed(world, old.certificate)
    pass_days(world, 200)
    assert exists(old)
    assert exists(old.issuance)
    assert exists(old.key)


def test_the_events_of_an_old_attempt_go_although_it_stays(world, account, credential):
    version = issued(world, account, credential, auto_renew=False).current
    pass_days(world, 89)
    assert version.issuance.events.exists()
    pass_days(world, 2)
    assert not version.issuance.events.exists()
    assert exists(version.issuance)


def test_a_version_with_an_open_revocation_stays(world, account, credential):
    certificate = issued(world, account, credential)
    services.revoke(certificate)
    world.messages.clear()
    old = certificate.current
    renewed(world, certificate)
    CertificateVersion.objects.filter(pk=old.pk).update(
        wake_at=world.time + timedelta(days=400), key=None
    )
    pass_days(world, 200)
    assert exists(old)


def test_a_compromised_key_stays_known(world, account, credential):
    certificate = issued(world, account, credential)
    old = services.revoke(certificate, "keyCompromise")
    world.deliver()
    renewed(world, certificate)
    pass_days(world, 400)
    old.refresh_from_db()
    assert old.key is None
    assert certificate.versions.filter(revoke_reason=1).get() == old


# --- attempts ---


def test_a_failed_attempt_goes_after_90_days(world, account, credential):
    certificate = issued(world, account, credential, auto_renew=False)
    attempt = failed(world, certificate)
    failed(world, certificate)
    pass_days(world, 89)
    assert exists(attempt)
    pass_days(world, 2)
    assert not exists(attempt)
    assert not IssuanceEvent.objects.filter(issuance=attempt.pk).exists()


def test_the_newest_attempt_stays(world, account, credential):
    certificate = issued(world, account, credential, auto_renew=False)
    attempt = failed(world, certificate)
    pass_days(world, 1000)
    assert exists(attempt)


def test_an_open_attempt_stays_with_its_events(world, account, credential):
    _, attempt = world.create(account, credential)
    IssuanceEvent.objects.create(issuance=attempt, at=world.time, step="order", outcome="wait")
    world.messages.clear()
    pass_days(world, 200)
    assert exists(attempt)
    assert attempt.events.exists()


def test_attempts_are_numbered_on_after_old_ones_went(world, account, credential):
    certificate = issued(world, account, credential, auto_renew=False)
    failed(world, certificate)
    failed(world, certificate)
    pass_days(world, 100)
    assert failed(world, certificate).number == 4


def test_a_proof_at_staging_goes_after_90_days(world, account, credential):
    certificate = issued(world, account, credential, auto_renew=False)
    proof = failed(world, certificate)
    failed(world, certificate)
    Issuance.objects.filter(pk=proof.pk).update(state=State.ISSUED, proves=True)
    pass_days(world, 91)
    assert not exists(proof)


def test_with_forever_nothing_of_an_attempt_goes(world, account, credential, settings):
    settings.KEEP_ATTEMPTS = None
    certificate = issued(world, account, credential, auto_renew=False)
    first = failed(world, certificate)
    failed(world, certificate)
    pass_days(world, 1000)
    assert first.events.exists()


# --- deleted certificates ---


def test_a_deleted_certificate_goes_with_its_keys(world, account, credential):
    certificate = issued(world, account, credential)
    failed(world, certificate)
    services.retire(read(certificate))
    pass_days(world, 89)
    assert exists(certificate)
    pass_days(world, 2)
    assert not exists(certificate)
    assert not CertificateVersion.objects.exists()
    assert not Issuance.objects.exists()
    assert not Authorization.objects.exists()
    assert not Envelope.objects.filter(purpose="certificate_key").exists()
    assert AuditEvent.objects.filter(action="certificate.deleted").exists()


def test_a_deleted_certificate_stays_while_a_record_is_in_a_zone(world, account, credential):
    certificate = issued(world, account, credential)
    services.retire(certificate)
    record = TxtRecord.objects.first()
    TxtRecord.objects.filter(pk=record.pk).update(
        cleaned_at=None, wake_at=world.time, left_behind="The provider is away."
    )
    pass_days(world, 100)
    assert exists(certificate)
    TxtRecord.objects.filter(pk=record.pk).update(cleaned_at=world.time, wake_at=None)
    pruning.prune.run()
    assert not exists(certificate)


def test_a_deleted_certificate_stays_while_a_revocation_is_open(world, account, credential):
    certificate = issued(world, account, credential)
    version = services.revoke(certificate)
    world.messages.clear()
    services.retire(certificate)
    pass_days(world, 100)
    assert exists(certificate)
    CertificateVersion.objects.filter(pk=version.pk).update(
        wake_at=None, revoked_at=world.time, queued_at=None
    )
    pruning.prune.run()
    assert not exists(certificate)


def test_a_deleted_certificate_stays_while_an_attempt_is_open(world, account, credential):
    certificate, attempt = world.create(account, credential)
    world.messages.clear()
    Certificate.objects.filter(pk=certificate.pk).update(retired_at=world.time)
    pass_days(world, 100)
    assert exists(attempt)


# --- renewal windows, request keys ---


def test_the_renewal_window_of_a_replaced_version_goes(world, account, credential):
    world.ca.offers_renewal_info = True
    old = issued(world, account, credential).current
    new = renewed(world, old.certificate)
    RenewalInfo.objects.filter(version=old).update(wake_at=None)
    pass_days(world, 6)
    assert RenewalInfo.objects.filter(version=old).exists()
    pass_days(world, 2)
    assert [each.version for each in RenewalInfo.objects.all()] == [new]


def test_the_renewal_window_of_an_expired_version_in_use_stays(world, account, credential):
    world.ca.offers_renewal_info = True
    version = issued(world, account, credential, auto_renew=False).current
    RenewalInfo.objects.update(wake_at=None)
    pass_days(world, 300)
    assert RenewalInfo.objects.get().version == version


def test_a_request_key_goes_after_a_week(world, account, credential):
    certificate = issued(world, account, credential)
    services.issue(certificate, idempotency=Idempotency("a", digest("a")))
    pass_days(world, 6.9)
    assert RequestKey.objects.exists()
    pass_days(world, 0.2)
    assert not RequestKey.objects.exists()


# --- records ---


def test_a_removed_record_goes_after_a_week(world, account, credential):
    issued(world, account, credential)
    pass_days(world, 6.9)
    assert TxtRecord.objects.exists()
    pass_days(world, 0.2)
    assert not TxtRecord.objects.exists()
    assert Authorization.objects.exists()


def test_a_record_that_was_never_written_goes(world, account, credential):
    TxtRecord.objects.create(credential=credential, name="_acme-challenge.example.com", value="v")
    pass_days(world, 8)
    assert not TxtRecord.objects.exists()


def test_a_record_in_a_zone_stays(world, credential):
    record = TxtRecord.objects.create(
        credential=credential,
        name="_acme-challenge.example.com",
        value="v",
        intent_at=world.time,
        wake_at=world.time + timedelta(days=1000),
    )
    pass_days(world, 400)
    assert exists(record)


def test_a_record_that_an_open_attempt_needs_stays(world, account, credential):
    _, attempt = world.create(account, credential)
    world.messages.clear()
    record = TxtRecord.objects.create(
        credential=credential,
        name="_acme-challenge.example.com",
        value="v",
        intent_at=world.time,
        cleaned_at=world.time,
    )
    Authorization.objects.create(issuance=attempt, url="https://ca.test/authz/1", record=record)
    pass_days(world, 100)
    assert exists(record)


# --- the run ---


def test_an_error_in_one_part_stops_no_other(world, account, credential, monkeypatch):
    def fails() -> None:
        raise Trouble("internal", "It fails.")

    monkeypatch.setattr(pruning, "prune_keys", fails)
    monkeypatch.setattr(ratelimits, "prune", fails)
    issued(world, account, credential)
    Exchange.objects.create(account=account, at=world.time, method="GET", url="https://ca.test")
    pass_days(world, 15)
    assert not TxtRecord.objects.exists()
    assert not Exchange.objects.exists()


def test_a_run_deletes_a_limited_number_of_rows(world, credential, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 3)
    monkeypatch.setattr(retention, "MOST_BATCHES", 2)
    TxtRecord.objects.bulk_create(
        TxtRecord(credential=credential, name=f"host{number}.example.com", value="v")
        for number in range(20)
    )
    pass_days(world, 8)
    assert TxtRecord.objects.count() == 14
    pruning.prune.run()
    assert TxtRecord.objects.count() == 8


def test_the_statements_of_a_run_do_not_grow_with_the_rows(world, account, credential):
    certificate = issued(world, account, credential, auto_renew=False)
    for _ in range(2):
        failed(world, certificate)
    counts = []
    for more in (3, 30):
        now = world.time
        Issuance.objects.bulk_create(
            Issuance(
                certificate=certificate,
                account=account,
                names_key="0",
                reason="renewal",
                state=State.FAILED,
                state_since=now,
                deadline_at=now,
                ended_at=now,
            )
            for _ in range(more)
        )
        failed(world, certificate)
        world.advance(100 * DAY)
        with CaptureQueriesContext(connection) as captured:
            pruning.prune_attempts()
        counts.append(len(captured))
    assert Issuance.objects.count() == 2
    assert counts[0] == counts[1]


def test_expired_sessions_go(world):
    for days in (-1, 1):
        Session.objects.create(
            session_key=str(days),
            expire_date=world.time + timedelta(days=days),
            seen_at=world.time,
            session_data="",
        )
    pruning.prune.run()
    assert Session.objects.get().session_key == "1"


# --- notices ---


def tell(owner) -> Notice:
    raising.raise_once(owner, Notice.Kind.RENEWED, "renewed:1", "It was renewed", "All is well.")
    return Notice.objects.get()


def test_notices_go_after_30_days(world, owner):
    tell(owner)
    pass_days(world, 29)
    assert Notice.objects.exists()
    pass_days(world, 2)
    assert not Notice.objects.exists()


def test_a_notice_that_is_raised_again_and_again_stays(world, owner):
    notice = tell(owner)
    for _ in range(50):
        world.advance(DAY)
        assert not raising.raise_once(owner, Notice.Kind.RENEWED, "renewed:1", "Again", "It is.")
        pruning.prune.run()
    assert exists(notice)


def test_a_notice_stays_until_its_delivery_is_over(world, owner):
    notice = tell(owner)
    delivery = Delivery.objects.create(
        owner=owner, notice=notice, channel="email", wake_at=world.time
    )
    pass_days(world, 100)
    assert exists(notice)
    Delivery.objects.filter(pk=delivery.pk).update(wake_at=None, sent_at=world.time)
    pruning.prune.run()
    assert not exists(delivery)


def test_a_digest_stays_while_it_holds_notices(world, owner):
    notice = tell(owner)
    digest_mail = Delivery.objects.create(owner=owner, channel="email", wake_at=world.time)
    held = Delivery.objects.create(owner=owner, notice=notice, channel="email", digest=digest_mail)
    pass_days(world, 100)
    assert exists(held)
    assert exists(digest_mail)
    over = {"sent_at": world.time - timedelta(days=31), "wake_at": None}
    Delivery.objects.update(**over)
    pruning.prune.run()
    assert not Delivery.objects.exists()
    assert not Notice.objects.exists()
