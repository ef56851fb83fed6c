"""Texts of others that hold markup are text on every page: of CAs, DNS APIs, devices and people."""

import pytest
from django.db.models import Model
from django.utils.html import escape

from accounts.models import ApiKey, SavedView, Session
from authorities.models import AcmeAccount, PrivateCA
from devices.models import Device
from dnsproviders.models import DnsCredential
from issuance import services
from issuance.models import (
    Certificate,
    CertificateVersion,
    Deployment,
    Issuance,
    IssuanceEvent,
    Label,
)
from notices import webhooks
from notices.models import Delivery, Notice, Webhook
from notices.raising import raise_test
from tests.dashboard.test_every_page import addresses, rows, text_of  # noqa: F401

pytestmark = pytest.mark.django_db
MARKUP = "<img src=x onerror=\"alert('{}')\">&amp;"
# The columns with texts of others, and the end of an address that shows them.
TEXTS: list[tuple[type[Model], tuple[str, ...], str]] = [
    (DnsCredential, ("last_error", "name"), "dns-credentials"),
    (AcmeAccount, ("error_what", "name"), "accounts"),
    (Issuance, ("error_what",), "certificates/1"),
    (IssuanceEvent, ("what",), "attempts/1"),
    (CertificateVersion, ("revoke_error", "issuer"), "certificates/1"),
    (Deployment, ("failure_what",), "/"),
    (Device, ("name", "agent_error"), "devices/1"),
    (PrivateCA, ("name",), "private-cas"),
    (ApiKey, ("name",), "api-keys"),
    (Label, ("name",), "certificates"),
    (SavedView, ("name",), "certificates"),
    (Session, ("agent",), "settings"),
    (Notice, ("subject", "body"), "notices"),
    (Delivery, ("error_what",), "notices"),
    (Webhook, ("name", "last_error"), "webhooks"),
]


def test_texts_of_others_are_shown_and_are_no_markup(visitor, rows, alice):  # noqa: F811
    certificate = Certificate.objects.get(pk=rows["certificate"])
    services.assign(certificate, Device.objects.get(pk=rows["device"]))
    services.set_labels(certificate, ["prod"])
    webhooks.create_webhook(alice, {"url": "https://hooks.example.com/x"})
    raise_test(alice)
    Deployment.objects.update(failed_serial=certificate.current.serial, failure="failed")
    Issuance.objects.update(state="failed")
    missing = {}
    for number, (model, columns, page) in enumerate(TEXTS):
        for column in columns:
            text = MARKUP.format(f"{number}{column[0]}")
            assert model.objects.update(**{column: text})
            missing[escape(text)] = page
    for address in addresses(rows):
        shown = text_of(visitor.get(address))
        assert "<img src=x" not in shown, address
        missing = {
            text: page
            for text, page in missing.items()
            if text not in shown or not address.endswith(page)
        }
    assert missing == {}
