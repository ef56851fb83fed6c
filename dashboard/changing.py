"""The form on the page of a certificate that changes its settings.

A form holds the values that the page showed. A setting that was changed elsewhere meanwhile is not
overwritten: the form comes back, and says what changed.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext as _

from authorities import catalog
from authorities.models import AcmeAccount
from certctrl import errors
from dashboard.certificates import choices, usable_accounts
from dashboard.page import Page
from dnsproviders.models import DnsCredential
from issuance import services
from issuance.api import parsing, requests
from issuance.challenges import delegation
from issuance.models import Certificate

KEYS = (
    ("ecdsa-256", "ECDSA P-256"),
    ("ecdsa-384", "ECDSA P-384"),
    ("rsa-2048", "RSA 2048"),
    ("rsa-3072", "RSA 3072"),
    ("rsa-4096", "RSA 4096"),
)
SUBJECT = ("organization", "organizational_unit", "country", "state", "locality")
# The members of the API that have another name as columns.
COLUMNS = {"acct_id": "account_id", "dns_provider_id": "credential_id"}
CHECKS = ("auto_renew", "reuse_key", "revoke_superseded")
# Members that are null when their field is empty.
NULLABLE = ("dns_provider_id", "verify_device_id", "fallback_account_id", "renew_days_before")
MEMBERS = (
    *("acct_id", *NULLABLE, "verify_method", "key_type", "key_size"),
    *("profile", "preferred_chain", *SUBJECT, *CHECKS),
)
ROLLOUT = ("rollout", "install_window")
# The fields of the form. They are the members, but key type and size are one field.
FIELDS = (*(each for each in MEMBERS if not each.startswith("key_")), "key")


def accounts_of(certificate: Certificate) -> list[AcmeAccount]:
    """Return the accounts that may issue it, and those that do, with their names."""
    used = [each for each in (certificate.account_id, certificate.fallback_account_id) if each]
    return usable_accounts(certificate.owner_id, used, only=("name", "private_ca"))


def seen(certificate: Certificate, names: Iterable[str]) -> dict[str, Any]:
    """Return the columns of these members, as a form holds them."""
    columns = [COLUMNS.get(name, name) for name in names]
    return {column: getattr(certificate, column) for column in columns}


def seen_by(request: HttpRequest) -> dict[str, Any]:
    """Return the columns that the page showed. A form without them overwrites any value."""
    try:
        shown = json.loads(request.POST.get("seen") or "{}")
    except ValueError:
        shown = None
    if not isinstance(shown, dict):
        raise errors.Invalid(_("The form is not whole. Open the page again."))
    known = {COLUMNS.get(name, name) for name in (*MEMBERS, "key_policy", *ROLLOUT)}
    return {name: value for name, value in shown.items() if name in known}


def texts_of(shown: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of the form for these columns. A box that is ticked is `on`."""
    texts = {}
    for name in FIELDS:
        value = shown.get(COLUMNS.get(name, name))
        ticked = "on" if value else ""
        texts[name] = ticked if name in CHECKS else "" if value is None else str(value)
    if shown.get("key_type"):
        texts["key"] = f"{shown['key_type']}-{shown.get('key_size')}"
    return texts


def body_of(sent: Mapping[str, str], shown: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request of the API: the fields that are not as they were shown."""
    before = texts_of(shown)
    body: dict[str, Any] = {}
    for name in FIELDS:
        text = sent.get(name, "").strip()
        if text == before[name]:
            continue
        if name == "key":
            body["key_type"], _dash, body["key_size"] = text.partition("-")
        elif name in CHECKS:
            body[name] = bool(text)
        else:
            body[name] = None if name in NULLABLE and not text else text
    return body


def words() -> dict[str, str]:
    """Return what the page calls each column."""
    return {
        "account_id": _("Account"),
        "credential_id": _("DNS credential"),
        "verify_method": _("How the names are proved"),
        "verify_device_id": _("Device that is reached at the names"),
        "fallback_account_id": _("Fallback account"),
        "renew_days_before": _("Renew days before the end"),
        "auto_renew": _("Renew by itself"),
        "key_type": _("Key"),
        "key_size": _("Key"),
        "reuse_key": _("Keep the key on renewal"),
        "profile": _("Profile"),
        "preferred_chain": _("Preferred chain"),
        "revoke_superseded": _("Revoke a version when its successor is served everywhere"),
        "organization": _("Organization"),
        "organizational_unit": _("Organizational unit"),
        "country": _("Country"),
        "state": _("State or province"),
        "locality": _("Locality"),
        "key_policy": _("Who can open the key"),
        "rollout": _("Rollout"),
        "install_window": _("Install window"),
    }


def told(stale: services.Stale) -> errors.Conflict:
    """Return the refusal of a stale form, in the words of the page."""
    named = words()
    changed = _("; ").join(dict.fromkeys(named[column] for column in stale.columns))
    return errors.Conflict(
        _(
            "Nothing was stored. Since this page was opened, somebody changed: %(changed)s. "
            "The page shows the settings of now. Compare them, and send the form again."
        )
        % {"changed": changed}
    )


def facts(certificate: Certificate, typed: Mapping[str, str] | None) -> dict[str, Any]:
    """Return what the form shows: the settings, or what was typed before it was refused."""
    shown = seen(certificate, MEMBERS)
    return {
        "given": texts_of(shown) if typed is None else dict(typed),
        "seen": {
            "settings": json.dumps(shown),
            "policy": json.dumps(seen(certificate, ["key_policy"])),
            "rollout": json.dumps(seen(certificate, ROLLOUT)),
        },
        "accounts": accounts_of(certificate),
        "credentials": choices(DnsCredential, certificate.owner),
        "keys": KEYS,
        "methods": Certificate.VerifyMethod.values,
        "profiles": sorted(catalog.info(certificate.account.ca_provider).profiles),
        "service_zone": delegation.is_offered(),
        "subject": [(name, words()[name], 2 if name == "country" else 64) for name in SUBJECT],
    }


class Changing(Page):
    """The button of that form, a `do_…` of the certificate's page."""

    def do_settings(self, certificate: Certificate) -> HttpResponseRedirect | None:
        shown = seen_by(self.request)
        body = body_of(self.request.POST, shown)
        given = requests.CertificateChange(partial=True).run_validation(body)
        changes = parsing.changes_of(self.owner, certificate, given)
        issuance = services.update_certificate(certificate, changes, seen=shown)
        if issuance:
            return HttpResponseRedirect(
                reverse("attempt", args=[issuance.certificate_id, issuance.pk])
            )
        messages.success(self.request, _("The settings are stored."))
        return None
