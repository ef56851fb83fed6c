"""120 days of 200 certificates, with the real scan, rows and retries.

The clock jumps from one due row to the next. The CA is down for two days, and the DNS provider
fails one call in twenty.
"""

import random
from datetime import datetime, timedelta

import pytest
from django.db.models import Min

from authorities import pki
from certctrl import clock
from dnsproviders.base import ProviderError
from dnsproviders.models import TxtRecord
from issuance.beat import renewals
from issuance.models import Certificate, CertificateVersion, Issuance
from tests.fakes import ca as fake_ca

pytestmark = pytest.mark.django_db

COUNT = 200
SHORT = 10
DAYS = 120
DOWN = (timedelta(days=47), timedelta(days=49))
SCAN = timedelta(minutes=10)
DAY = timedelta(days=1)


@pytest.fixture
def fleet(world, account, credential, monkeypatch):
    """Ten certificates live six days, the others 45 or 90; none has a renewal window, which
    `test_ari` is about.
    """
    monkeypatch.setattr(pki, "ari_id", lambda leaf: "")
    sign = fake_ca.sign
    monkeypatch.setattr(fake_ca, "sign", lambda csr_pem, life: sign(csr_pem, life_of(csr_pem)))
    chance = random.Random(1)
    present = world.zone.present

    def sometimes_present(name, value):
        if chance.random() < 0.05:
            raise ProviderError("dns_unreachable", "The DNS provider could not be reached.")
        present(name, value)

    monkeypatch.setattr(world.zone, "present", sometimes_present)
    call = world.ca.call
    began = world.time

    def call_unless_down(name, effect):
        if DOWN[0] <= world.time - began < DOWN[1]:
            raise fake_ca.TROUBLE
        return call(name, effect)

    monkeypatch.setattr(world.ca, "call", call_unless_down)
    for number in range(COUNT):
        world.create(account, credential, f"host{number}.example{number % 7}.com")
    return world


def life_of(csr_pem: str) -> timedelta:
    from cryptography import x509

    name = pki.names_of(x509.load_pem_x509_csr(csr_pem.encode()))[0]
    number = int(name.partition(".")[0].removeprefix("host"))
    return timedelta(days=6) if number < SHORT else timedelta(days=45 if number % 2 else 90)


def next_moment() -> datetime:
    """Return when the next scan, attempt or record is due."""
    now = clock.now()
    renewal = Certificate.objects.aggregate(at=Min("renew_at"))["at"]
    moments = [max(renewal, now) + SCAN] if renewal else []
    rows = (Issuance.objects.open(), TxtRecord.objects.in_the_zone())
    moments += [at for at in (each.aggregate(at=Min("wake_at"))["at"] for each in rows) if at]
    return max(min(moments), now + timedelta(seconds=1))


@pytest.mark.slow
def test_no_certificate_expires(fleet):
    world = fleet
    end = fleet.time + DAYS * DAY
    world.deliver()
    while (moment := next_moment()) < end:
        world.advance((moment - world.time).total_seconds())
        if Certificate.objects.filter(renew_at__lte=world.time).exists():
            renewals.scan_renewals.run()
        world.sweep()
        late = Certificate.objects.filter(expires_at__lte=world.time)
        assert not late.exists(), f"{late.first()} expired at {late.first().expires_at}"
    assert Certificate.objects.filter(current__isnull=False).count() == COUNT
    shortest = Certificate.objects.get(domain="host0.example0.com")
    assert shortest.versions.count() >= DAYS // 3 - 3, (
        "a six-day certificate is renewed at half of its life"
    )
    assert CertificateVersion.objects.count() < Issuance.objects.count(), (
        "some attempts failed on the way"
    )
    assert not world.zone.txt()
