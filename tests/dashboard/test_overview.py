"""The overview: devices that serve something else, retries, and what is left of limits."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from authorities.errors import Problem, Refused
from certctrl import clock
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble
from dashboard import overview
from devices.models import Device
from dnsproviders.base import ProviderError
from issuance import services
from issuance.models import CertificateVersion, Deployment
from issuance.rollout import Report, note_reports
from tests import factories
from tests.issuance.failing import issued

pytestmark = pytest.mark.django_db
MARKUP = "<script>alert(1)</script>"


def text_of(visitor) -> str:
    return visitor.get("/").content.decode()


def test_a_device_that_failed_is_on_the_overview(visitor, alice, certificate):
    device: Device = factories.device(alice, name="edge-1")
    services.assign(certificate, device)
    assert "Serve something else" not in text_of(visitor)
    serial = Deployment.objects.get().certificate.current.serial
    note_reports(device, [Report(certificate.pk, serial, "failed", MARKUP)])
    shown = text_of(visitor)
    assert "Serve something else" in shown
    assert "edge-1" in shown
    assert MARKUP not in shown
    note_reports(device, [Report(certificate.pk, serial, "served", "")])
    assert "Serve something else" not in text_of(visitor)


def test_a_failure_shows_the_words_of_the_ca(visitor, certificate, world):
    world.ca.problems = {"new_order": [Trouble("ca_error", f"The CA says: {MARKUP}", True)]}
    services.issue(certificate)
    world.deliver()
    certificate.refresh_from_db()
    text = text_of(visitor)
    assert "The CA says: &lt;script&gt;" in text
    assert MARKUP not in text


@pytest.fixture
def two_accounts(settings, world, alice, credential):
    """The newer account has used more of its limit."""
    settings.ACME_CAS = {"custom": {"limits": {"account": [10, 60]}}}
    first, second = world.account(alice), world.account(alice)
    for account, name in ((first, "a"), (second, "b"), (second, "c")):
        issued(world, account, credential, f"{name}.example.com")


def test_the_scarcest_limit_comes_first(visitor, two_accounts, client_of, alice, bob):
    levels = visitor.get("/").context["limits"]
    shares = [each["left"] / each["capacity"] for each in levels]
    assert shares == [0.8, 0.9]
    api = client_of(alice).get("/apiv1/me/limits").data_member
    assert [each["kind"] for each in api] == [each["kind"] for each in levels]
    assert client_of(bob).get("/apiv1/me/limits").data_member == []


def test_a_key_for_some_accounts_reads_no_limits(key_client, alice, account):
    path = "/apiv1/me/limits"
    assert key_client(alice, "acme_accounts:*[read]").get(path).status_code == 200
    assert key_client(alice, f"acme_accounts:{account.pk}[read]").get(path).status_code == 403


@pytest.fixture
def moving(world, account, credential):
    """A certificate whose attempt waits for its record."""
    world.zone.hides = True
    certificate, _ = world.create(account, credential)
    world.deliver()
    return certificate


def in_progress(visitor) -> list[str]:
    rows = visitor.get("/").context["in_progress"]
    return [row.certificate.domain for row in rows]


def test_an_open_attempt_is_in_progress(visitor, moving):
    assert in_progress(visitor) == [moving.domain]


def test_an_attempt_that_ends_between_two_reads_is_not_in_progress(visitor, moving):
    """The certificates are read first, and then their open attempts."""
    certificates = [moving]

    def end_it_before(execute, sql, *more):
        if certificates and '."certificate_id" IN ' in sql:
            services.cancel(certificates.pop())
        return execute(sql, *more)

    with connection.execute_wrapper(end_it_before):
        assert in_progress(visitor) == []
    assert not certificates


def test_names_of_one_domain_with_one_error_are_one_cause(visitor, world, account, credential):
    for name in ("a.example.com", "b.example.com", "c.example.org"):
        world.ca.problems["new_order"] = [Refused("ca_caa", f"No for {name}.", permanent=True)]
        issued(world, account, credential, name)
    causes = visitor.get("/").context["causes"]
    names = [[row.certificate.domain for row in case["rows"]] for case in causes]
    assert sorted(map(sorted, names)) == [["a.example.com", "b.example.com"], ["c.example.org"]]


def test_a_cause_has_the_words_of_the_ca_and_what_to_do(visitor, world, account, credential):
    problem = Problem("caa", "CAA <b>forbids</b> it.", permanent=True)
    for name in ("a.example.com", "b.example.com"):
        refused = _("The CA refused the order for %(domain)s.", domain=name)
        world.ca.problems["new_order"] = [problem.refused(refused)]
        issued(world, account, credential, name)
    shown = text_of(visitor)
    assert 'translate="no">CAA &lt;b&gt;forbids&lt;/b&gt; it. (caa)</p>' in shown
    assert "Failed once, on" in shown
    assert 'href="/certificates?chip=you&amp;q=example.com"' in shown
    (case,) = visitor.get("/").context["causes"]
    first = case["rows"][0].certificate
    assert f'action="/certificates/{first.pk}/preflight"' in shown
    assert f'action="/certificates/{first.pk}/renew"' in shown
    assert len(visitor.get("/certificates?chip=you&q=example.com").context["rows"]) == 2


def test_a_refused_credential_is_one_cause_that_leads_to_it(visitor, world, account, credential):
    world.zone.blinds = ProviderError("dns_credential_refused", "Refused.", permanent=True)
    for name in ("a.example.com", "a.example.net"):
        issued(world, account, credential, name)
    (case,) = visitor.get("/").context["causes"]
    assert len(case["rows"]) == 2
    shown = text_of(visitor)
    assert "Replace the token" in shown
    assert f'href="/certificates?chip=you&amp;credential={credential.pk}"' in shown


def test_a_revoked_certificate_is_shown_as_revoked(visitor, certificate):
    assert "revoked ·" not in visitor.get("/").content.decode()
    CertificateVersion.objects.update(revoke_asked_at=clock.now(), revoked_at=clock.now())
    assert "revoked ·" in visitor.get("/").content.decode()


def test_the_soonest_end_is_that_of_a_certificate_in_use(
    visitor, world, account, credential, client_of, alice
):
    names = ("past", "revoked", "retired", "used", "later")
    rows = [issued(world, account, credential, f"{name}.example.com") for name in names]
    for days, row in enumerate(rows, 1):
        type(row).objects.filter(pk=row.pk).update(expires_at=clock.now() + timedelta(days=days))
    past, revoked, retired, used, _later = rows
    type(past).objects.filter(pk=past.pk).update(expires_at=clock.now() - timedelta(days=1))
    CertificateVersion.objects.filter(certificate=revoked).update(
        revoke_asked_at=clock.now(), revoked_at=clock.now()
    )
    type(retired).objects.filter(pk=retired.pk).update(retired_at=clock.now())
    assert visitor.get("/").context["soonest"] == used
    summary = client_of(alice).get("/apiv1/me/summary").data_member
    assert summary["soonest_end"] == int(type(used).objects.get(pk=used.pk).expires_at.timestamp())


@pytest.fixture
def few(world, account, credential, monkeypatch):
    """Five certificates that end one after the other. The first three have ended."""
    monkeypatch.setattr(overview, "MOST_LANES", 2)
    rows = [issued(world, account, credential, f"n{number}.example.com") for number in range(5)]
    for number, row in enumerate(rows):
        ends = clock.now() + timedelta(days=number, hours=-50)
        type(row).objects.filter(pk=row.pk).update(expires_at=ends)
    return rows


def test_more_certificates_have_ended_than_have_a_line(visitor, few):
    shown = visitor.get("/").context
    assert len(shown["lanes"]) == 2
    assert shown["expired"] == 3
    assert shown["soonest"] == few[3]


def test_more_certificates_are_tried_again_than_are_shown(visitor, few, monkeypatch):
    monkeypatch.setattr(overview, "MOST_RETRIED", 2)
    for row in few[:3]:
        type(row).objects.filter(pk=row.pk).update(failures=1, last_failure="transient")
    shown = visitor.get("/").context
    assert (len(shown["retried"]), shown["again"]) == (2, 3)


def test_rows_that_were_all_read_are_not_counted(visitor, certificate):
    visitor.get("/")
    with CaptureQueriesContext(connection) as ran:
        visitor.get("/")
    assert [each["sql"] for each in ran if "COUNT(" in each["sql"]] == []


def test_no_list_reads_a_chain_or_a_csr(visitor, moving, certificate, alice):
    services.assign(certificate, factories.device(alice, name="edge-1"))
    Deployment.objects.update(wanted_at=clock.now() - timedelta(days=9))
    for path in ("/", "/certificates", "/devices"):
        with CaptureQueriesContext(connection) as ran:
            assert visitor.get(path).status_code == 200
        limits = 'FROM "issuance_reservation"'  # these read whole rows
        read = [each["sql"] for each in ran if limits not in each["sql"]]
        assert [sql for sql in read if "chain_pem" in sql or "csr_pem" in sql] == [], path


def test_a_certificate_that_has_expired_ended(visitor, certificate, world):
    note_failure = {"failures": 1, "renew_at": None}
    type(certificate).objects.update(expires_at=clock.now() - timedelta(days=2), **note_failure)
    page = visitor.get("/").content.decode()
    assert "Ended 2" in page
