"""Debug mode keeps the calls to the DNS API of an attempt."""

import json
from typing import Any

import pytest
import responses

from accounts.models import User
from authorities.models import AcmeAccount, Exchange
from certctrl import clock
from certctrl.turns import Trouble
from dnsproviders import credentials, records
from dnsproviders.models import DnsCredential
from issuance import services
from issuance.challenges import registry, txtrecords
from issuance.models import Authorization, Issuance
from keystore import envelope

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]
ENDPOINT = "https://dns.example.net/acme"
PASSWORD = "never-shown-anywhere"


@pytest.fixture(autouse=True)
def service() -> Any:
    with responses.mock:
        responses.add(responses.GET, ENDPOINT, status=200, json={})
        responses.add(responses.POST, f"{ENDPOINT}/present", status=200, json={})
        responses.add(responses.POST, f"{ENDPOINT}/cleanup", status=200, json={})
        yield


def credential_of(owner: User) -> DnsCredential:
    body = {"provider": "httpreq", "endpoint": ENDPOINT, "username": "u", "password": PASSWORD}
    return credentials.create_credential(owner, body)


@pytest.fixture
def attempt(owner: User) -> Issuance:
    """An attempt whose TXT record is noted, at an account with debugging."""
    account = AcmeAccount.objects.create(
        owner=owner,
        name="an account",
        ca_provider="custom",
        directory_url="https://ca.test/dir",
        terms_accepted_at=clock.now(),
        key=envelope.seal(owner, "acme_account_key", b"unused"),
        status=AcmeAccount.Status.VALID,
        log_level="debug",
    )
    credential = credential_of(owner)
    spec = services.CertificateSpec(("example.com",), account, credential, "ecdsa", 256, {})
    certificate, _none = services.create_certificate(owner, spec, issue=False)
    attempt = services.request_issuance(certificate)
    record = records.note(credential, "_acme-challenge.example.com", "v" * 43)
    Authorization.objects.create(
        issuance=attempt, record=record, identifier="example.com", status="pending"
    )
    return attempt


def present(attempt: Issuance) -> None:
    with Issuance.objects.turn(attempt.pk, due=False) as held:
        registry.of("dns-01").present(held, list(held.authorizations.all()))
        held.give_back(clock.now())


def withdraw(attempt: Issuance) -> None:
    Issuance.objects.filter(pk=attempt.pk).update(
        state=Issuance.State.FAILED, wake_at=None, ended_at=clock.now()
    )
    record = attempt.authorizations.get().record
    assert record
    type(record).objects.filter(pk=record.pk).update(wake_at=clock.now())
    txtrecords.withdraw(record.pk)


def kept() -> list[tuple[Any, ...]]:
    columns = ("attempt_id", "step", "party", "method", "url", "status")
    return list(Exchange.objects.order_by("pk").values_list(*columns))


def test_the_record_and_its_removal_are_kept_without_secrets(attempt):
    present(attempt)
    withdraw(attempt)
    assert kept() == [
        (attempt.pk, step, "HTTP request", "POST", f"{ENDPOINT}/{action}", 200)
        for step, action in (("present", "present"), ("cleanup", "cleanup"))
    ]
    rows = json.dumps(list(Exchange.objects.values()), default=str)
    assert PASSWORD not in rows
    assert "v" * 43 not in rows


def test_without_debugging_nothing_is_kept(attempt):
    AcmeAccount.objects.update(log_level="")
    attempt = Issuance.objects.get(pk=attempt.pk)
    present(attempt)
    withdraw(attempt)
    assert kept() == []


def test_a_call_without_an_answer_says_why(attempt):
    responses.replace(responses.POST, f"{ENDPOINT}/present", body=ConnectionError("away"))
    with pytest.raises(Trouble):
        present(attempt)
    row = Exchange.objects.get()
    assert row.status is None
    assert "could not be reached" in row.error


def test_calls_with_a_credential_of_another_owner_are_not_kept(attempt, bob):
    of_bob = credential_of(bob)
    record = attempt.authorizations.get().record
    type(record).objects.filter(pk=record.pk).update(credential=of_bob)
    present(attempt)
    assert kept() == []
