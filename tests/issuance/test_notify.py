"""The notices about renewals, failures and refused credentials, and how often they are sent."""

from datetime import timedelta

import pytest

from authorities.errors import Refused
from certctrl.turns import Trouble
from dnsproviders.base import ProviderError
from issuance import notify, services
from issuance.beat import renewals
from issuance.models import Certificate, Issuance
from notices.models import Notice
from tests.fakes.ca import REFUSED

pytestmark = pytest.mark.django_db
Kind = Notice.Kind
NO_CREDENTIAL = ProviderError(
    "dns_credential_refused", "Cloudflare refused the token.", permanent=True
)
REJECTED = Refused(
    "ca_rejected_identifier", "The CA does not issue for example.com.", permanent=True
)


def told(kind: str = "") -> list[Notice]:
    notices = Notice.objects.order_by("pk")
    return list(notices.filter(kind=kind) if kind else notices)


@pytest.fixture
def issued(world, account, credential) -> Certificate:
    certificate, _ = world.create(account, credential, "example.com")
    world.deliver()
    world.settle()
    certificate.refresh_from_db()
    return certificate


@pytest.fixture
def renew(world, issued):
    """`renew(problem)` runs an attempt that fails with `problem`, and returns the certificate."""

    def build(problem: Exception | None = None, call: str = "finalize") -> Certificate:
        world.ca.problems[call] = [problem] if problem else []
        Certificate.objects.update(renew_at=world.time)
        renewals.scan_renewals.run()
        world.sweep()
        world.settle()
        issued.refresh_from_db()
        return issued

    return build


def test_a_first_issuance_makes_no_notice(issued):
    assert told() == []


def test_a_renewal_makes_a_notice_with_the_new_end(world, renew, issued):
    world.advance(60 * 86400)
    before = issued.expires_at
    after = renew()
    (notice,) = told()
    assert after.expires_at > before
    assert (notice.kind, notice.owner, notice.subject) == (
        Kind.RENEWED,
        issued.owner,
        "example.com was renewed",
    )
    assert f"valid until {after.expires_at:%Y-%m-%d %H:%M} UTC" in notice.body
    assert notice.data == {
        "domain": "example.com",
        "certificate_id": issued.pk,
        "issuance_id": after.current.issuance_id,
        "serial": after.current.serial,
        "expires_at": f"{after.expires_at:%Y-%m-%dT%H:%M:%SZ}",
    }


def test_a_renewal_that_a_person_asked_for_makes_a_notice_too(world, issued):
    services.issue(issued)
    world.sweep()
    assert [each.kind for each in told()] == [Kind.RENEWED]


@pytest.mark.postgres
def test_a_version_that_is_not_stored_makes_no_notice(world, renew, monkeypatch):
    monkeypatch.setattr(notify, "raise_once", lambda *told: 1 / 0)
    renew()
    assert Issuance.objects.last().state == Issuance.State.FINALIZED
    assert Certificate.objects.get().versions.count() == 1


@pytest.mark.slow
@pytest.mark.postgres
def test_consecutive_failures_make_notices_at_growing_intervals(world, renew):
    for _ in range(15):
        renew(REFUSED)
        world.advance(60)
    assert [each.data["failures"] for each in told(Kind.RENEWAL_FAILED)] == [1, 3, 7, 14]
    renew()
    assert told()[-1].kind == Kind.RENEWED
    world.advance(60)
    renew(REFUSED)
    assert told()[-1].data["failures"] == 1


def test_a_failure_notice_has_the_cas_words_and_the_next_attempt(world, renew):
    certificate = renew(REFUSED)
    (notice,) = told()
    assert notice.subject == "example.com could not be renewed"
    assert "The CA refused: CAA forbids it." in notice.body
    assert "It failed for the first time." in notice.body
    assert (
        f"The current one is valid until {certificate.expires_at:%Y-%m-%d %H:%M} UTC."
        in notice.body
    )
    assert f"The next attempt is at {certificate.renew_at:%Y-%m-%d %H:%M} UTC." in notice.body
    assert "somebody" not in notice.body
    assert (notice.data["code"], notice.data["what"], notice.data["permanent"]) == (
        "ca_caa",
        REFUSED.what,
        False,
    )
    assert notice.data["next_try_at"] == f"{certificate.renew_at:%Y-%m-%dT%H:%M:%SZ}"


def test_a_permanent_failure_of_a_renewal_asks_for_a_person_at_once(world, renew):
    for problem in (REFUSED, REJECTED, REJECTED, REJECTED):
        renew(problem)
        world.advance(60)
    notices = told(Kind.RENEWAL_FAILED)
    assert [each.data["failures"] for each in notices] == [1, 2, 3]
    assert "It will fail again until this is fixed" in notices[1].body
    assert notices[1].data["permanent"] is True


def test_a_first_failure_that_is_permanent_makes_one_notice(world, renew):
    for _ in range(2):
        renew(REJECTED)
        world.advance(60)
    assert [each.data["failures"] for each in told(Kind.RENEWAL_FAILED)] == [1]


def test_a_failed_renewal_without_auto_renew_says_that_no_retry_follows(world, issued):
    Certificate.objects.update(auto_renew=False)
    world.ca.problems["finalize"] = [REFUSED]
    services.issue(Certificate.objects.get())
    world.sweep()
    (notice,) = told()
    assert notice.body.endswith("Automatic renewal is off. Start one (renew).")


def test_a_renewal_that_can_wait_for_a_limit_makes_no_notice(world, renew):
    world.advance(60 * 86400)
    renew(Trouble("ca_rate_limited", "too many new orders", retry_after=7 * 3600))
    assert told(Kind.RENEWAL_FAILED) == []


def test_a_renewal_that_cannot_wait_for_a_limit_makes_one_notice(world, renew, issued):
    world.advance((issued.expires_at - world.time).total_seconds() - 86400)
    for _ in range(2):
        renew(Trouble("ca_rate_limited", "too many new orders", retry_after=7 * 86400))
        world.advance(3600)
    (notice,) = told(Kind.RENEWAL_FAILED)
    assert "too many new orders" in notice.body


@pytest.mark.slow
def test_a_ca_busy_for_days_makes_notices_at_growing_intervals(world, issued):
    busy = Trouble("ca_rate_limited", "Service busy; retry later.", retry_after=3600)
    world.ca.problems["new_order"] = [busy] * 10_000
    Certificate.objects.update(renew_at=world.time)
    for _ in range(96):
        renewals.scan_renewals.run()
        world.sweep()
        world.advance(3600)
    assert [each.data["failures"] for each in told(Kind.RENEWAL_FAILED)] == [1, 3]


def test_a_pause_that_the_ca_asks_for_hides_no_failure(world, renew):
    renew(Trouble("ca_error", "The CA is away (HTTP 503).", retry_after=9 * 3600))
    attempt = Issuance.objects.order_by("-pk")[0]
    assert attempt.failure == Issuance.Failure.LIMITED
    assert len(told(Kind.RENEWAL_FAILED)) == 1


def test_a_certificate_that_is_out_of_date_says_so(world, renew, issued):
    world.advance(100 * 86400)
    renew(REFUSED)
    assert (
        f"out of date since {issued.expires_at:%Y-%m-%d %H:%M} UTC"
        in told(Kind.RENEWAL_FAILED)[0].body
    )


def test_a_first_issuance_that_fails_and_is_retried_makes_no_notice(world, account, credential):
    world.ca.problems["finalize"] = [REFUSED]
    world.create(account, credential)
    world.deliver()
    assert told() == []


def test_a_permanent_failure_of_a_first_issuance_asks_for_a_person(world, account, credential):
    world.ca.problems["new_order"] = [REJECTED]
    certificate, _ = world.create(account, credential, "example.com")
    world.deliver()
    (notice,) = told()
    assert (notice.kind, notice.subject) == (
        Kind.ACTION_NEEDED,
        "example.com has no certificate and needs a person",
    )
    assert "The CA does not issue for example.com." in notice.body
    assert notice.data["certificate_id"] == certificate.pk


def test_a_first_issuance_given_up_after_a_week_asks_for_a_person(world, account, credential):
    world.ca.problems["new_order"] = [REFUSED]
    world.create(account, credential, "example.com")
    Certificate.objects.update(failing_since=world.time - timedelta(days=8))
    world.deliver()
    assert [each.kind for each in told()] == [Kind.ACTION_NEEDED]


def test_a_retired_certificate_makes_no_more_notices(world, account, credential):
    world.ca.problems["new_order"] = [REJECTED]
    world.create(account, credential)
    Certificate.objects.update(retired_at=world.time)
    world.deliver()
    assert Issuance.objects.get().state == Issuance.State.FAILED
    assert told() == []


def test_growing_distance():
    assert [failures for failures in range(60) if notify.is_told(failures)] == [
        1,
        3,
        7,
        14,
        28,
        42,
        56,
    ]


# --- credentials ---


@pytest.mark.postgres
def test_a_refused_credential_makes_one_notice_a_day(world, account, credential):
    for number in range(4):
        world.zone.refuses = [NO_CREDENTIAL]
        world.create(account, credential, f"host{number}.example.com")
        world.sweep()
    (notice,) = told(Kind.CREDENTIAL_REFUSED)
    assert notice.subject == "The DNS credential a zone was refused"
    assert "Cloudflare refused the token." in notice.body
    assert notice.data["dns_provider_id"] == credential.pk
    assert len(told(Kind.ACTION_NEEDED)) == 4
    world.advance(86400)
    world.zone.refuses = [NO_CREDENTIAL]
    world.create(account, credential, "tomorrow.example.com")
    world.sweep()
    assert len(told(Kind.CREDENTIAL_REFUSED)) == 2


def test_each_refused_credential_makes_a_notice(world, account, credential, owner):
    for each in (credential, world.credential(owner, name="another")):
        world.zone.refuses = [NO_CREDENTIAL]
        world.create(account, each, f"{each.name[0]}.example.com")
        world.sweep()
    assert len(told(Kind.CREDENTIAL_REFUSED)) == 2


@pytest.mark.parametrize(("code", "times"), [("dns_credential_refused", 1), ("dns_unreachable", 0)])
def test_a_credential_refused_at_cleanup_makes_a_notice_at_once(
    world, account, credential, code, times
):
    world.time = world.time.replace(hour=12)  # once a day, in UTC
    world.create(account, credential, "example.com")
    world.deliver()
    world.zone.refuses = [ProviderError(code, "Refused.", permanent=True)] * 4
    world.sweep()
    world.advance(3600)
    world.sweep()
    assert len(told(Kind.CREDENTIAL_REFUSED)) == times
    assert told(Kind.RECORD_LEFT_BEHIND) == []


def test_other_troubles_blame_no_credential(world, account, credential):
    world.zone.refuses = [ProviderError("dns_zone_not_found", "No zone.", permanent=True)]
    world.create(account, credential, "example.com")
    world.sweep()
    assert [each.kind for each in told()] == [Kind.ACTION_NEEDED]


def test_trouble_that_passes_makes_no_notice(world, renew):
    renew(Trouble("ca_unreachable", "The CA could not be reached."), call="new_order")
    world.advance(10)
    world.sweep()
    assert [each.kind for each in told()] == [Kind.RENEWED]
