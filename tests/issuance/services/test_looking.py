"""The zones of names: how they are proved, and by which credential they were before."""

from datetime import timedelta

import pytest

from authorities import accounts, privateca
from authorities.models import AcmeAccount
from certctrl import clock
from dnsclient import cnames
from dnsclient.survey import CnamePath
from issuance import services
from issuance.challenges.base import Known
from issuance.models import Certificate
from issuance.preflight import Finding
from tests.issuance.failing import issued

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]


def test_names_are_grouped_by_their_registered_domain(alice):
    names = ["example.com", "*.example.com", "shop.example.co.uk", "192.0.2.7"]
    first, second = services.zones_of(alice, names)
    assert (first.zone, first.names) == ("example.com", ["example.com", "*.example.com"])
    assert first.records == ["_acme-challenge.example.com"]
    assert (second.zone, second.is_seen, second.proved_by) == ("example.co.uk", None, None)


def test_the_credential_that_proved_a_domain_last_is_named(world, account, credential, bob):
    def last(owner=account.owner):
        (zone,) = services.zones_of(owner, ["new.example.com"])
        return zone.proved_by

    world.create(account, credential, "never.example.com")
    assert last() is None
    world.deliver()
    world.settle()
    assert last() == credential.pk
    other = world.credential(account.owner, name="other")
    issued(world, account, other, "*.example.com")
    assert last() == other.pk
    assert last(bob) is None
    Certificate.objects.filter(credential=other).update(retired_at=clock.now())
    other.retired_at = clock.now()
    other.save()
    assert last() == credential.pk


def test_a_look_says_which_zones_the_provider_shows(alice):
    record = cnames.challenge_of("www.example.com")
    led = CnamePath((cnames.challenge_of("x.example.com"), "y.auth.example.net"))
    known = Known(
        {"www.example.com": CnamePath((record,)), "x.example.com": led},
        {record: "zone-1"},
        {record: "www.example.com", "y.auth.example.net": "auth.example.net"},
    )
    refusal = Finding("zone_not_found", "x.example.com", "y.auth.example.net TXT", "No zone.")
    seen, unseen = services.zones_of(alice, ["www.example.com", "x.example.com"], known, [refusal])
    assert (seen.zone, seen.is_seen) == ("www.example.com", True)
    assert (unseen.zone, unseen.records) == ("auth.example.net", ["y.auth.example.net"])
    assert unseen.is_seen is False


def test_a_certificate_is_expected_to_live_like_the_last_one(world, account, credential):
    assert services.expected(account) is None
    before = issued(world, account, credential, "example.com")
    life = before.current.not_after - before.current.not_before
    found = services.expected(account)
    assert found.not_after == clock.now() + life
    assert found.renew_at == clock.now() + life * 2 / 3
    assert services.expected(account, days_before=40).renew_at == found.not_after - timedelta(40)
    assert services.expected(account, "shortlived") is None


def test_a_private_ca_says_itself_how_long_a_certificate_lives(alice, world):
    private_ca = privateca.create_private_ca(alice, {"name": "lab"})
    account = accounts.account_of_private_ca(private_ca)
    assert services.expected(account).not_after == clock.now() + privateca.DEFAULT_VALIDITY
    AcmeAccount.objects.filter(pk=account.pk).update(defaults={"validity_seconds": 3600})
    account.refresh_from_db()
    assert services.expected(account).not_after == clock.now() + timedelta(hours=1)
