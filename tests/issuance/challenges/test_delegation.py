"""Certificates without a DNS credential of their own: proved in the service zone, by the operator's
credential, which writes at the certificate's own place and nowhere else.
"""

import os
import subprocess
import sys

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import User
from certctrl.errors import Conflict
from dnsproviders import credentials
from dnsproviders.base import ProviderError
from dnsproviders.models import TxtRecord
from issuance import preflight, services
from issuance.api.certificates import note
from issuance.beat import renewals
from issuance.challenges import delegation
from issuance.challenges.base import Known
from issuance.models import Certificate, Issuance
from issuance.preflight import checks
from notices.models import Notice
from tests.patience import LIMIT

pytestmark = pytest.mark.django_db
State = Issuance.State

ZONE = "acme.example.net"
CHALLENGE = "_acme-challenge.example.com"


@pytest.fixture
def operators(world, settings):
    """The operator's credential, and the service zone that it writes."""
    operator = User.objects.create_user("operator@example.net", is_staff=True)
    credential = world.credential(operator, name="service zone")
    settings.SERVICE_ZONE = ZONE
    settings.SERVICE_DNS_CREDENTIAL = credential.pk
    return credential


@pytest.fixture
def make(world, account, operators):
    """`make("example.com", ...)` makes a certificate for the service zone, and its attempt."""
    return lambda *names: world.create(account, None, *(names or ("example.com", "*.example.com")))


def target_of(certificate: Certificate) -> str:
    return f"{certificate.public_id}.{ZONE}"


def deliver(world, issuance: Issuance) -> Issuance:
    world.deliver()
    issuance.refresh_from_db()
    return issuance


def blind(monkeypatch) -> None:
    """The preflight finds nothing, as if the fault arose after it."""
    monkeypatch.setattr(checks, "check", lambda *args, **kwargs: ([], Known()))


def is_refused(world, issuance: Issuance) -> str:
    """The attempt ended because its challenge leads elsewhere, before an intent was written."""
    deliver(world, issuance)
    assert (issuance.state, issuance.error_code) == (State.FAILED, "delegation_missing")
    assert not TxtRecord.objects.exists()
    assert not [each for each in world.outside.calls if each.startswith("zone.")]
    return issuance.error_what


# --- Issuing ---


def test_several_names_are_proved_at_one_place_by_the_operators_credential(world, make, operators):
    certificate, issuance = make("example.com", "*.example.com", "www.example.org")
    target = target_of(certificate)
    world.zone.cnames = {CHALLENGE: target, "_acme-challenge.www.example.org": target}
    assert deliver(world, issuance).state == State.ISSUED
    records = TxtRecord.objects.all()
    assert {(each.name, each.credential) for each in records} == {(target, operators)}
    assert len({each.value for each in records}) == 3
    world.settle()
    assert world.zone.txt() == []


def test_a_renewal_is_proved_there_too(world, make, operators):
    certificate, issuance = make()
    world.zone.cnames[CHALLENGE] = target_of(certificate)
    deliver(world, issuance)
    certificate.refresh_from_db()
    world.advance((certificate.renew_at - world.time).total_seconds() + 1)
    renewals.scan_renewals.run()
    world.sweep()
    renewal = Issuance.objects.latest("pk")
    assert (renewal.state, renewal.reason, renewal.credential) == (
        State.ISSUED,
        "renewal",
        operators,
    )


def test_a_credential_of_its_own_takes_over_from_the_next_attempt_on(
    world, make, credential, operators
):
    certificate, issuance = make()
    world.zone.cnames[CHALLENGE] = target_of(certificate)
    deliver(world, issuance)
    services.update_certificate(certificate, {"credential": credential})
    world.zone.cnames.clear()
    renewed = deliver(world, services.issue(certificate))
    assert (renewed.state, renewed.credential) == (State.ISSUED, credential)
    assert set(TxtRecord.objects.filter(credential=credential).values_list("name", flat=True)) == {
        CHALLENGE
    }


# --- Where it may write ---


def test_without_its_cname_no_order_is_spent(world, make):
    certificate, issuance = make()
    assert deliver(world, issuance).error_code == "preflight_delegation_missing"
    assert f"Set the record {CHALLENGE}. CNAME {target_of(certificate)}." in issuance.error_what
    assert "ca.new_order" not in world.outside.calls
    assert (
        "zone.zone_of" not in world.outside.calls
    )  # nor is the operator's credential shown another zone


def test_once_the_cname_is_set_it_is_issued(world, make):
    certificate, issuance = make()
    deliver(world, issuance)
    world.zone.cnames[CHALLENGE] = target_of(certificate)
    assert deliver(world, services.issue(certificate)).state == State.ISSUED


def test_a_cname_that_is_gone_when_the_order_is_there_is_refused(world, make, monkeypatch):
    blind(monkeypatch)
    _, issuance = make()
    assert "It has no CNAME now" in is_refused(world, issuance)


@pytest.mark.parametrize("is_seen_before", [True, False])
def test_a_cname_to_another_certificates_place_is_refused(
    world, make, bob, monkeypatch, is_seen_before
):
    account = world.account(bob)
    theirs, _ = world.create(account, None, "bob.example.net")
    world.messages.clear()
    _, issuance = make()
    world.zone.cnames[CHALLENGE] = target_of(theirs)
    if is_seen_before:
        assert deliver(world, issuance).error_code == "preflight_delegation_missing"
        assert "ca.new_order" not in world.outside.calls
    else:
        blind(monkeypatch)
        is_refused(world, issuance)
    assert f"It leads to {target_of(theirs)}" in issuance.error_what
    assert not TxtRecord.objects.exists()


@pytest.mark.parametrize(
    "elsewhere", ["deep.{target}", "{public_id}.other.net", ZONE, "www.example.com", "x{target}"]
)
def test_it_is_exactly_its_own_place(world, make, monkeypatch, elsewhere):
    blind(monkeypatch)
    certificate, issuance = make()
    target = target_of(certificate)
    world.zone.cnames[CHALLENGE] = elsewhere.format(target=target, public_id=certificate.public_id)
    is_refused(world, issuance)


def test_an_own_credential_set_during_the_attempt_is_not_opened(
    world, make, credential, monkeypatch
):
    """The attempt continues with the operator's credential at the certificate's place."""
    blind(monkeypatch)
    certificate, issuance = make()
    services.update_certificate(certificate, {"credential": credential})
    is_refused(world, issuance)


@pytest.mark.parametrize(
    "change", [{"SERVICE_ZONE": "other.example.net"}, {"SERVICE_DNS_CREDENTIAL": 0}]
)
def test_settings_changed_during_the_attempt_open_no_credential(
    world, make, monkeypatch, settings, change
):
    blind(monkeypatch)
    certificate, issuance = make()
    world.zone.cnames[CHALLENGE] = (
        CHALLENGE if "SERVICE_DNS_CREDENTIAL" in change else target_of(certificate)
    )
    for name, value in change.items():
        setattr(settings, name, value)
    is_refused(world, issuance)


def test_the_operators_certificates_are_bound_unless_one_is_named(world, operators, monkeypatch):
    blind(monkeypatch)
    account = world.account(operators.owner)
    _, unnamed = world.create(account, None, "example.com")
    is_refused(world, unnamed)
    _, named = world.create(account, operators, "example.org")
    assert deliver(world, named).state == State.ISSUED


def test_a_changed_credential_does_not_bind_the_running_attempt(
    world, account, credential, owner, make
):
    certificate, issuance = world.create(account, credential, "example.org")
    services.update_certificate(certificate, {"credential": world.credential(owner)})
    assert deliver(world, issuance).state == State.ISSUED


# --- The operator's credential ---


def test_a_credential_of_a_user_who_is_not_staff_is_not_used(world, make, account, operators):
    certificate, _ = make()
    services.cancel(certificate)
    User.objects.filter(pk=operators.owner_id).update(is_staff=False)
    assert delegation.credential_for(certificate) is None
    with pytest.raises(Conflict, match="SERVICE_DNS_CREDENTIAL"):
        services.issue(certificate)
    assert [each.code for each in preflight.run(certificate)] == ["no_credential"]


def test_the_operators_credential_is_not_deleted_while_it_serves(operators, settings):
    with pytest.raises(
        Conflict, match=f"service zone is the credential of the service zone {ZONE}"
    ):
        credentials.retire_credential(operators)
    settings.SERVICE_ZONE = ""
    settings.SERVICE_DNS_CREDENTIAL = 0
    credentials.retire_credential(operators)
    assert operators.retired_at


def test_a_private_ca_needs_no_delegation(world, account, operators):
    certificate = Certificate(account=account, public_id="id", names=["example.com"])
    assert delegation.is_delegated(certificate)
    account.private_ca_id = 7
    assert not delegation.is_delegated(certificate)
    assert delegation.credential_for(certificate) is None


def test_without_a_service_zone_a_credential_is_asked_for(world, account):
    certificate = Certificate(account=account, domain="example.com", names=["example.com"])
    with pytest.raises(Conflict, match="Set dns_provider_id"):
        services.refuse_issuance(certificate)


@pytest.mark.parametrize("given", [{"SERVICE_ZONE": ZONE}, {"SERVICE_DNS_CREDENTIAL": "7"}, {}])
def test_one_setting_without_the_other_is_refused_at_start(given):
    environment = {
        "PATH": os.environ["PATH"],
        "SECRET_KEY": "x" * 50,
        "MASTER_KEYS": f"1:{'A' * 43}=",
        **given,
    }
    command = [sys.executable, "-c", "import certctrl.settings"]
    started = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=LIMIT
    )
    assert (started.returncode == 0) == (not given), started.stderr
    assert ("belong together" in started.stderr) == bool(given)


def test_an_unwritable_service_zone_spends_no_order_and_staff_are_notified(world, make, operators):
    certificate, _ = make()
    world.zone.cnames[CHALLENGE] = target_of(certificate)
    world.deliver()
    staff = User.objects.create_user("second@example.net", is_staff=True)
    User.objects.filter(pk=operators.owner_id).update(is_staff=False)
    orders = world.outside.calls.count("ca.new_order")
    Certificate.objects.update(renew_at=world.time)
    renewals.scan_renewals.run()
    world.sweep()
    failed = Issuance.objects.latest("pk")
    assert (failed.error_code, failed.failure) == ("preflight_no_credential", "permanent")
    assert "Ask the operator" in failed.error_what
    assert world.outside.calls.count("ca.new_order") == orders
    told = Notice.objects.filter(kind=Notice.Kind.ACTION_NEEDED)
    assert [(each.owner, each.subject) for each in told] == [
        (staff, f"The service zone {ZONE} cannot be written")
    ]


@pytest.mark.parametrize("seen_by", ["preflight", "present"])
def test_only_the_operator_reads_provider_errors_about_the_service_zone(
    world, make, operators, monkeypatch, seen_by
):
    certificate, issuance = make()
    world.zone.cnames[CHALLENGE] = target_of(certificate)
    words = "This token sees other.test, secret.test."
    world.zone.blinds = ProviderError("dns_zone_not_found", words, permanent=True)
    if seen_by == "present":
        blind(monkeypatch)
    deliver(world, issuance)
    assert issuance.state == State.FAILED
    assert "secret.test" not in issuance.error_what
    assert ZONE in issuance.error_what
    assert not [each for each in preflight.run(certificate) if "secret.test" in each.what]
    told = {each.owner: each.body for each in Notice.objects.all()}
    assert words in told[operators.owner]
    assert "secret.test" not in told.get(certificate.owner, "")


def test_a_provider_that_is_away_for_long_has_refused_nothing(world, make, operators, monkeypatch):
    certificate, issuance = make()
    world.zone.cnames[CHALLENGE] = target_of(certificate)
    blind(monkeypatch)
    world.zone.refuses = [ProviderError("dns_unreachable", "No answer.")] * 1000
    for _ in range(3 * 60):
        world.sweep()
        world.advance(60)
    issuance.refresh_from_db()
    assert (issuance.state, issuance.error_code) == (State.FAILED, "dns_unreachable")
    assert "It is retried" in issuance.error_what
    assert not Notice.objects.filter(kind=Notice.Kind.CREDENTIAL_REFUSED).exists()


def test_once_issued_it_is_verified_and_nothing_is_noted_of_missing_cnames(world, make):
    certificate, issuance = make("example.com")
    world.zone.cnames[CHALLENGE] = target_of(certificate)
    assert deliver(world, issuance).state == State.ISSUED
    certificate.refresh_from_db()
    assert certificate.verified
    certificate.verified = False  # as it may be since a look found the CNAME gone
    assert "CNAME" not in note(certificate)


@pytest.mark.parametrize("count", [2, 12])
def test_the_scan_reads_the_operators_credential_once_for_a_batch(world, account, operators, count):
    for number in range(count):
        services.create_certificate(
            account.owner, world.spec(account, None, f"host{number}.example.com"), issue=False
        )
    Certificate.objects.update(renew_at=world.time)
    with CaptureQueriesContext(connection) as queries:
        renewals.scan_renewals.run()
    assert Issuance.objects.filter(credential=operators).count() == count
    assert sum('FROM "dnsproviders_dnscredential"' in each["sql"] for each in queries) == 1
