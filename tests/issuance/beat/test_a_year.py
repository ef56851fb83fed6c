"""A year of 40 certificates: history has an end, so no table grows.

Each certificate is renewed every 60 days. One newOrder in five fails. Each month two certificates
are deleted, and two others are made.
"""

import random
from collections import Counter
from datetime import timedelta

import pytest
from django.apps import apps
from django.utils import timezone

from accounts.models import Session
from authorities.models import Exchange
from issuance import services
from issuance.beat import pruning, renewals
from issuance.models import Certificate, Issuance, RenewalInfo, digest
from issuance.renewal import ari
from issuance.services import Idempotency
from notices import posting
from notices.models import Webhook
from signin import mailedcodes
from signin.models import MailedCode
from tests.fakes.ca import TROUBLE

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

COUNT = 40
STEP = 3  # days
A_LOGIN = timedelta(days=14)
APPS = ("accounts", "authorities", "dnsproviders", "issuance", "keystore", "notices", "signin")
KEPT = ("accounts.AuditEvent",)  # for ever
MADE = {
    "accounts.Session",
    "accounts.User",
    "authorities.AcmeAccount",
    "authorities.Exchange",
    "dnsproviders.DnsCredential",
    "dnsproviders.TxtRecord",
    "issuance.Authorization",
    "issuance.Certificate",
    "issuance.CertificateCount",
    "issuance.CertificateVersion",
    "issuance.Issuance",
    "issuance.IssuanceEvent",
    "issuance.NamePart",
    "issuance.RenewalInfo",
    "issuance.RequestKey",
    "keystore.Envelope",
    "keystore.KeyWrap",
    "notices.Delivery",
    "notices.Notice",
    "notices.Webhook",
    "signin.MailedCode",
}


def sizes() -> Counter[str]:
    """Return the number of rows in each table that may not grow."""
    models = [each for label in APPS for each in apps.get_app_config(label).get_models()]
    counted = [each for each in models if each._meta.label not in KEPT]
    return Counter({each._meta.label: each._default_manager.count() for each in counted})


def poll_once(renewal_info_id: int) -> None:
    with RenewalInfo.objects.turn(renewal_info_id) as info:
        info.give_back(None)


@pytest.fixture
def fleet(world, account, credential, owner, monkeypatch):
    monkeypatch.setattr(timezone, "now", lambda: world.time)
    monkeypatch.setattr(posting, "post", lambda delivery: None)
    monkeypatch.setattr(ari, "poll", poll_once)
    Webhook.objects.create(owner=owner, name="receiver")
    chance = random.Random(1)
    call = world.ca.call

    def sometimes_fails(name, effect):
        if name == "new_order" and chance.random() < 0.2:
            raise TROUBLE
        return call(name, effect)

    monkeypatch.setattr(world.ca, "call", sometimes_fails)
    world.ca.offers_renewal_info = True
    return world


def pass_days(world) -> None:
    world.advance(STEP * 86400.0)
    renewals.scan_renewals.run()
    world.settle(most=40, step=3600)
    pruning.prune.run()


def test_no_table_grows_after_the_fourth_month(fleet, account, credential):
    world = fleet
    made = 0
    peaks: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    for day in range(0, 365, STEP):
        while made < min(COUNT, 2 * day) + day // 30 * 2:
            certificate, attempt = world.create(account, credential, f"host{made}.example.com")
            services.issue(certificate, idempotency=Idempotency(str(made), digest(made)))
            made += 1
            Exchange.objects.create(
                account=account, attempt_id=attempt.pk, at=world.time, method="GET", url="/"
            )
        Session.objects.create(
            session_key=str(day),
            user=account.owner,
            seen_at=world.time,
            expire_date=world.time + A_LOGIN,
        )
        MailedCode.objects.create(
            purpose=MailedCode.Purpose.INVITE,
            email=f"p{day}@example.org",
            ends_at=world.time + mailedcodes.INVITED_FOR,
            wake_at=None,
        )
        pass_days(world)
        if day % 30 == 27:
            for certificate in Certificate.objects.filter(retired_at=None).order_by("pk")[:2]:
                services.retire(certificate)
        if day >= 120:
            peaks[day >= 210] |= sizes()
    early, late = peaks[False], peaks[True]
    grown = {name: (early[name], late[name]) for name in late if late[name] > 1.15 * early[name]}
    assert not grown
    assert {name for name in MADE if not early[name]} == set()
    assert Issuance.objects.order_by("-pk").first().pk > 3 * Issuance.objects.count()
    assert Certificate.objects.filter(retired_at=None, expires_at__gt=world.time).count() == COUNT
