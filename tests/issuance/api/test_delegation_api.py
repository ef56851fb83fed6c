"""The CNAMEs of a certificate without a DNS credential are shown and verified."""

import pytest

from accounts.models import User
from certctrl.turns import Trouble
from dnsclient import cnames
from dnsclient.cnames import CnamePath
from issuance.api.preflight import PreflightThrottle
from issuance.models import Certificate, Issuance
from tests.issuance.api.calling import refused

pytestmark = pytest.mark.django_db

ZONE = "acme.example.net"
CHALLENGE = "_acme-challenge.example.com"


@pytest.fixture
def operators(world, settings):
    operator = User.objects.create_user("operator@example.net", is_staff=True)
    credential = world.credential(operator)
    settings.SERVICE_ZONE = ZONE
    settings.SERVICE_DNS_CREDENTIAL = credential.pk
    return credential


@pytest.fixture
def made(api, guide, operators):
    """The create response of a certificate that uses the service zone."""
    return api.post(
        "certificates", guide(sans=["*.example.com", "www.example.org"], dns_provider_id=None)
    ).data_member


@pytest.fixture
def verify(api, made):
    return lambda: api.put(f"certificates/{made['id']}", {"action": "verify_domain"})


def test_a_delegated_create_needs_no_credential_and_shows_its_cnames(world, made):
    target = f"{made['public_id']}.{ZONE}"
    assert made["delegation"] == {
        "zone": ZONE,
        "target": target,
        "cnames": [
            {"name": CHALLENGE, "target": target},
            {"name": "_acme-challenge.www.example.org", "target": target},
        ],
        "verified": False,
    }
    assert "every CNAME" in made["note"]
    assert (made["dns_provider_id"], made["verified"]) == (None, False)
    assert Issuance.objects.get().pk == made["issue_history_id"]


def test_the_cnames_are_shown_in_lists_too_without_a_query_for_each(
    api, guide, reference, operators, django_assert_max_num_queries
):
    for number in range(5):
        api.post(
            "certificates", reference(domain_name=f"example{number}.com", dns_provider_id=None)
        )
    with django_assert_max_num_queries(6):
        listed = api.get("certificates").data_member
    assert len({each["delegation"]["target"] for each in listed}) == 5


def test_a_certificate_with_a_credential_needs_no_cname(api, guide, operators):
    assert api.post("certificates", guide()).data_member["delegation"] is None


def test_without_a_service_zone_there_is_no_delegation(api, guide, reference):
    assert (
        api.post("certificates", reference(dns_provider_id=None)).data_member["delegation"] is None
    )
    refused(
        api.post("certificates", guide(domain="example.org", dns_provider_id=None)),
        400,
        "dns_provider_id",
    )


def test_verify_domain_answers_204_once_every_cname_is_there(api, world, made, verify):
    target = made["delegation"]["target"]
    world.zone.cnames = {CHALLENGE: target, "_acme-challenge.www.example.org": target}
    answer = verify()
    assert (answer.status_code, answer.content) == (204, b"")
    shown = api.get(f"certificates/{made['id']}").data_member
    assert shown["verified"] is shown["delegation"]["verified"] is True
    assert "CNAME" not in shown["note"]


def test_verify_domain_names_the_missing_cname_and_the_one_found(api, world, made, verify):
    target = made["delegation"]["target"]
    world.zone.cnames[CHALLENGE] = target
    what = refused(verify(), 400, "action")
    assert what.startswith(
        f"_acme-challenge.www.example.org must be a CNAME to {target}. It has no CNAME now"
    )
    world.zone.cnames["_acme-challenge.www.example.org"] = f"somebody-else.{ZONE}"
    assert f"It leads to somebody-else.{ZONE}" in refused(verify(), 400, "action")
    assert not Certificate.objects.get().verified


def test_a_cname_that_went_away_is_verified_no_more(world, made, verify):
    Certificate.objects.update(verified=True)
    refused(verify(), 400)
    assert not Certificate.objects.get().verified


@pytest.mark.parametrize(
    ("code", "stays"), [("dns_lookup_failed", True), ("dns_cname_loop", False)]
)
def test_an_outage_of_dns_is_reported_and_changes_nothing(
    world, made, verify, monkeypatch, code, stays
):
    Certificate.objects.update(verified=True)
    path = CnamePath((CHALLENGE,), trouble=Trouble(code, "The sentence about it."))
    monkeypatch.setattr(cnames, "follow", lambda names, seconds: dict.fromkeys(names, path))
    assert refused(verify(), 400) == "The sentence about it."
    assert Certificate.objects.get().verified is stays


def test_a_wildcards_cname_is_named_as_what_it_is(made, verify, monkeypatch):
    path = CnamePath((CHALLENGE,), wildcard=made["delegation"]["target"])
    monkeypatch.setattr(cnames, "follow", lambda names, seconds: dict.fromkeys(names, path))
    assert "wildcard" in refused(verify(), 400)


def test_a_certificate_without_delegation_has_nothing_to_verify(api, guide, operators):
    pk = api.post("certificates", guide()).data_member["id"]
    answer = api.put(f"certificates/{pk}", {"action": "verify_domain"})
    assert "does not use the service zone" in refused(answer, 400, "action")


def test_verifying_is_counted(verify, monkeypatch):
    monkeypatch.setattr(PreflightThrottle, "rate", "2/hour")
    assert [verify().status_code for _ in range(3)] == [400, 400, 429]


def test_other_changes_are_not_counted(api, made, monkeypatch):
    monkeypatch.setattr(PreflightThrottle, "rate", "1/hour")
    for _ in range(3):
        assert api.put(f"certificates/{made['id']}", {"organization": "Ours"}).status_code == 200


def test_the_operators_credential_is_named_by_nobody_else(api, guide, operators):
    refused(api.post("certificates", guide(dns_provider_id=operators.pk)), 404, "dns_provider_id")


def test_the_operators_credential_is_409_to_delete(client_of, operators):
    answer = client_of(operators.owner).delete(f"/apiv1/me/dns-providers/{operators.pk}")
    assert answer.status_code == 409
    assert "SERVICE_DNS_CREDENTIAL" in answer.error["what"]
