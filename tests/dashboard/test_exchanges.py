"""The exchanges of an attempt with its CA."""

import pytest

from authorities.models import Exchange
from certctrl import clock

pytestmark = pytest.mark.django_db
MARKUP = "<script>alert(1)</script>"


def test_an_exchange_shows_what_the_ca_answered(visitor, certificate):
    attempt = certificate.issuances.get()
    address = f"/certificates/{certificate.pk}/attempts/{attempt.pk}"
    assert "No exchange is kept" in visitor.get(f"{address}/exchanges").content.decode()
    Exchange.objects.create(
        account=attempt.account,
        attempt_id=attempt.pk,
        at=clock.now(),
        method="POST",
        url="https://ca.example/new-order",
        status=403,
        problem={"detail": MARKUP},
    )
    shown = visitor.get(f"{address}/exchanges").content.decode()
    assert "https://ca.example/new-order" in shown
    assert "&lt;script&gt;" in shown
    assert MARKUP not in shown


def test_a_call_to_a_dns_api_is_named(visitor, certificate):
    attempt = certificate.issuances.get()
    kept = {"account": attempt.account, "attempt_id": attempt.pk, "at": clock.now()}
    url = "https://api.example/zones/7/records"
    Exchange.objects.create(party="Cloudflare", method="GET", url=url, status=200, **kept)
    rcode = {"rcode": "REFUSED"}
    server = "ns.example:53 example.com."
    Exchange.objects.create(party="RFC 2136", method="UPDATE", url=server, headers=rcode, **kept)
    address = f"/certificates/{certificate.pk}/attempts/{attempt.pk}/exchanges"
    shown = visitor.get(address).content.decode()
    assert "Cloudflare" in shown
    assert url in shown
    assert "REFUSED" in shown
    assert "no answer" not in shown


def test_only_attempts_with_debugging_have_the_link(visitor, certificate, settings):
    attempt = certificate.issuances.get()
    address = f"/certificates/{certificate.pk}/attempts/{attempt.pk}"
    assert "Exchanges with the CA" not in visitor.get(address).content.decode()
    attempt.account.log_level = "debug"
    attempt.account.save()
    assert "Exchanges with the CA" in visitor.get(address).content.decode()
    attempt.account.log_level = ""
    attempt.account.save()
    settings.ACME_LOG_LEVEL = "debug"
    assert "Exchanges with the CA" in visitor.get(address).content.decode()
