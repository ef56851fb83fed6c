"""`POST certificates/{id}/preflight` finds what would make the CA refuse, without an order."""

import pytest
from django.core.cache import cache

from dnsclient import survey
from dnsclient.survey import CaaPolicy, CAARecord, CnamePath, Survey, Zone
from dnsproviders.base import ProviderError
from issuance.api.preflight import PreflightThrottle
from issuance.models import Certificate, Issuance
from tests.issuance.api.calling import refused, rows

pytestmark = pytest.mark.django_db


@pytest.fixture
def pk(api, reference):
    return api.post("certificates", reference()).data_member["id"]


def test_a_healthy_certificate_is_ok(api, pk):
    answer = api.post(f"certificates/{pk}/preflight")
    assert (answer.status_code, answer.data_member) == (200, {"ok": True, "findings": []})


def test_each_finding_names_the_record_and_spends_nothing(api, world, pk, monkeypatch):
    challenge = "_acme-challenge.example.com"
    seen = Survey(
        {"example.com": CaaPolicy("example.com", (CAARecord(0, "issue", "other.test"),))},
        {"example.com": CnamePath((challenge,))},
        {
            challenge: Zone(
                "example.com", {"ns1.example.com (192.0.2.1)": 1}, lame=("ns2.example.com",)
            )
        },
    )
    monkeypatch.setattr(survey, "survey", lambda names, seconds: seen)
    before = rows()
    found = api.post(f"certificates/{pk}/preflight").data_member
    assert found["ok"] is False
    assert [set(each) for each in found["findings"]] == [
        {"code", "name", "record", "what", "fix", "blocks"}
    ] * 2
    first, second = found["findings"]
    assert (first["code"], first["name"], first["record"], first["blocks"]) == (
        "caa_forbids",
        "example.com",
        "example.com CAA",
        True,
    )
    assert (second["code"], second["record"], second["blocks"]) == (
        "lame_server",
        "example.com NS",
        False,
    )
    assert rows() == before
    assert not Issuance.objects.exists()
    assert "ca.new_order" not in world.outside.calls


def test_a_finding_that_does_not_block_is_ok(api, world, pk):
    world.zone.blinds = ProviderError("dns_unreachable", "It is away.")
    found = api.post(f"certificates/{pk}/preflight").data_member
    assert found["ok"] is True
    assert [each["code"] for each in found["findings"]] == ["credential_unchecked"]


def test_an_account_that_the_ca_does_not_know_yet_is_no_obstacle(api, world, pk, account):
    account.url = ""
    account.status = "pending"
    account.save()
    assert api.post(f"certificates/{pk}/preflight").data_member["ok"] is True


def test_a_certificate_without_a_credential_is_reported(api, pk):
    Certificate.objects.update(credential=None)
    found = api.post(f"certificates/{pk}/preflight").data_member
    assert (found["ok"], found["findings"][0]["code"]) == (False, "no_credential")


def test_a_private_ca_asks_no_server(api, world):
    ca = api.post("cas", {"name": "Root"}).data_member["id"]
    pk = api.post(f"cas/{ca}/issue", {"domain_name": "host.lan"})
    assert Certificate.objects.exists() or pk.status_code == 200
    found = api.post(f"certificates/{Certificate.objects.latest('pk').pk}/preflight")
    assert found.data_member == {"ok": True, "findings": []}


@pytest.mark.parametrize(("scope", "status"), [("issue", 200), ("read", 403), ("write", 403)])
def test_a_key_needs_the_right_to_issue(keyed, pk, scope, status):
    assert (
        keyed(f"certificates:*[{scope}]").post(f"certificates/{pk}/preflight").status_code == status
    )


def test_calls_are_counted_and_too_many_are_429(api, pk, monkeypatch):
    monkeypatch.setattr(PreflightThrottle, "rate", "2/hour")
    answers = [api.post(f"certificates/{pk}/preflight") for _ in range(3)]
    assert [each.status_code for each in answers] == [200, 200, 429]
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 3600


def test_without_its_cache_nothing_is_asked(api, world, pk, monkeypatch):
    def away(*args, **kwargs):
        raise ConnectionError("the cache is away")

    monkeypatch.setattr(cache, "get", away)
    refused(api.post(f"certificates/{pk}/preflight"), 503)
    assert "zone.zone_of" not in world.outside.calls
