"""The form that issues a certificate. Names and zones are checked before its button."""

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables

from accounts.models import User
from authorities import catalog
from authorities.models import AcmeAccount
from certctrl import clock, errors, outward
from certctrl.errorshape import refusal_of
from dashboard.certificate import to_attempt
from dashboard.certificates import MOST_CHOICES, choices, shown, usable_accounts
from dashboard.changing import KEYS
from dashboard.conditions import Condition, condition_of, note_attempts
from dashboard.page import FORM_KEY, SEPARATORS, Page, count, curl, is_partial, number, show
from devices.models import Device
from dnsproviders.models import DisabledProvider, DnsCredential
from issuance import identifiers, ratelimits, services
from issuance.api import parsing, requests
from issuance.api import preflight as throttles
from issuance.challenges import delegation
from issuance.models import Certificate, digest
from issuance.services import Idempotency
from keystore.models import Envelope

MOST_TYPED = 100 * 260  # characters
MOST_CHECKED = 200  # names; CAs take a hundred
FIELDS = (
    *("names", "account", "credential", "key", "policy", "export", "profile", "chain"),
    *("fallback", "before", "auto_renew", "reuse_key", "method", "device", "second", "matched"),
)
MOST_LOOKS = 10  # in a row, that the page makes by itself
MOST_SAME = 3  # certificates with the same names that are shown
DAY = 86400
BY_AGENT = (Certificate.VerifyMethod.HTTP_01, Certificate.VerifyMethod.TLS_ALPN_01)


@dataclass(frozen=True)
class Checked:
    """A name as it was typed, its A-label, and what is wrong with it."""

    typed: str
    name: str = ""
    wrong: str = ""


def typed_names(text: str) -> list[str]:
    return [each for each in SEPARATORS.split(text[:MOST_TYPED]) if each]


def checked(names: list[str], *, private: bool) -> list[Checked]:
    """Return the first names, at most MOST_CHECKED, with the server's own judgement."""
    found: list[Checked] = []
    good: list[str] = []
    for typed in list(dict.fromkeys(names))[:MOST_CHECKED]:
        try:
            name = identifiers.normalize_name(typed, private=private)
            if name not in good:
                if not private:
                    identifiers.refuse_covered([*good, name])
                good.append(name)
                found.append(Checked(typed, name))
        except errors.Invalid as refused:
            found.append(Checked(typed, wrong=refused.what))
    return found


def companions(names: list[Checked]) -> list[str]:
    """Return the wildcard of each base, and the base of each wildcard, that is not there yet."""
    have = {each.name for each in names if each.name}
    offered = []
    for name in [each.name for each in names if each.name][:3]:
        base = name.removeprefix("*.")
        other = base if name.startswith("*.") else f"*.{base}"
        is_covered = any(f"*.{each.partition('.')[2]}" in have for each in (other, base))
        if other not in have and not is_covered and "." in base and ":" not in base:
            offered.append(other)
    return offered


def there_already(form: "Form", account: AcmeAccount | None, names: list[str]) -> dict[str, Any]:
    """Return the certificates with the same names, and what a second one would cost at the CA."""
    ids = services.with_names(form.owner, names)[:MOST_SAME]
    same = list(shown(services.of_owner(form.owner).filter(pk__in=ids)).order_by("-pk"))
    note_attempts(same)
    limit = ratelimits.left_of_set(account, names) if same and account else None
    if limit and account:
        limit |= {
            "left": int(limit["left"]),
            "days": math.ceil(limit["capacity"] * limit["seconds_for_one"] / DAY),
            "ca": catalog.info(account.ca_provider).label,
        }
    return {"same": [(each, condition_of(each)) for each in same], "limit": limit}


class Form:
    """The typed values, or good defaults."""

    def __init__(self, owner: User, given: Mapping[str, Any]) -> None:
        self.owner = owner
        self.given = given
        self.accounts = usable_accounts(owner.pk)
        self.credentials = choices(DnsCredential, owner, "provider", "last_error", "checked_at")
        self.disabled = set(DisabledProvider.objects.values_list("provider", flat=True))
        devices = Device.objects.filter(owner=owner, status=Device.Status.ACTIVE)
        self.devices = list(devices.order_by("-pk").only("name", "public_id")[:MOST_CHOICES])

    def account(self) -> AcmeAccount | None:
        wanted = number(str(self.given.get("account", "")))
        found = [each for each in self.accounts if each.pk == wanted]
        return found[0] if found else None

    def credential(self) -> DnsCredential | None:
        return self.named(number(str(self.given.get("credential", ""))))

    def named(self, pk: int | None) -> DnsCredential | None:
        return next((each for each in self.credentials if each.pk == pk), None)

    def device(self) -> Device | None:
        wanted = number(str(self.given.get("device", "")))
        return next((each for each in self.devices if each.pk == wanted), None)

    def choose_the_only_ones(self) -> None:
        """Choose the first account, and the only credential, where the person chose none yet."""
        if self.accounts and not self.given.get("account"):
            self.given = {**self.given, "account": self.accounts[0].pk}
        if len(self.credentials) == 1 and "credential" not in self.given:
            only = self.credentials[0].pk
            self.given = {**self.given, "credential": only, "matched": only}

    def match(self) -> None:
        """Choose the credential that proved these names last, unless the person chose another."""
        if self.given.get("method") in BY_AGENT or self.is_private():
            return
        if str(self.given.get("credential", "")) != str(self.given.get("matched", "")):
            return
        known = (each.proved_by for each in self.zones if self.named(each.proved_by))
        if last := next(known, None):
            self.given = {**self.given, "credential": last, "matched": last}

    def names(self) -> list[str]:
        """Return the names as they were typed, and those that were ticked."""
        return [*typed_names(str(self.given.get("names", ""))), *self.given.get("also", ())]

    def is_private(self) -> bool:
        account = self.account()
        return bool(account and account.is_private)

    @cached_property
    def good_names(self) -> list[str]:
        """The names that are allowed."""
        found = checked(self.names(), private=self.is_private())
        return [each.name for each in found if each.name]

    @cached_property
    def zones(self) -> list[services.ZoneProof]:
        return services.zones_of(self.owner, self.good_names)

    def body(self, names: list[str], *, later: bool = False) -> dict[str, Any]:
        """Return the request of the API for this form. With `later`, nothing is ordered."""
        given = self.given
        key_type, _dash, key_size = str(given.get("key", "")).partition("-")
        body: dict[str, Any] = {
            "domain_name" if later else "domain": names[0] if names else "",
            "sans": names[1:],
            "auto_renew": bool(given.get("auto_renew")),
            "reuse_key": bool(given.get("reuse_key")),
            "server_decrypt_export": bool(given.get("export")),
        }
        if account := number(str(given.get("account", ""))):
            body["acme_account_id"] = account
        if credential := number(str(given.get("credential", ""))):
            body["dns_provider_id"] = credential
        if given.get("method") in BY_AGENT:
            body["verify_method"] = given["method"]
            if device := number(str(given.get("device", ""))):
                body["verify_device_id"] = device
        if key_type:
            body |= {"key_type": key_type, "key_size": key_size}
        texts = {
            "key_dist_policy": "policy",
            "profile": "profile",
            "preferred_chain": "chain",
            "fallback_account_id": "fallback",
            "renew_days_before": "before",
        }
        return body | {name: given[field] for name, field in texts.items() if given.get(field)}

    def spec(
        self, credential: DnsCredential | None = None, *, later: bool = False
    ) -> services.CertificateSpec:
        """Return the request for a certificate. Raise Invalid, MissingField or NotFound.

        A form for many certificates hands in the credential that the first one has found. A
        certificate that is issued later may lack what only an order needs.
        """
        if not self.given.get("account"):
            raise errors.MissingField(_("Choose an account."), field="account")
        parsed = requests.CertificateRequest().run_validation(self.body(self.names(), later=later))
        if not parsed["domain"]:
            raise errors.MissingField(_("Type at least one name."), field="domain")
        return parsing.spec_of(self.owner, parsed, self.account(), credential)


def defaults(owner: User) -> dict[str, Any]:
    """Return the values of the last certificate, so that the usual one needs only names."""
    last = services.of_owner(owner).order_by("-pk").select_related("account").first()
    given: dict[str, Any] = {"auto_renew": "on", "policy": Envelope.Policy.HYBRID, "key": ""}
    if last:
        given |= {"account": last.account_id, "credential": last.credential_id or ""}
        given["matched"] = given["credential"]
        given |= {"method": last.verify_method, "device": last.verify_device_id or ""}
        given["policy"] = last.key_policy
        given["export"] = "on" if last.server_decrypt_export else ""
    return given


def fields_of(sent: QueryDict) -> dict[str, Any]:
    given: dict[str, Any] = {name: sent.get(name, "") for name in FIELDS}
    return given | {"also": sent.getlist("also")}


@dataclass(frozen=True)
class ProofRow:
    """How the names of one zone are proved, by what, and what is known of it."""

    proof: services.ZoneProof
    by: str
    how: str
    condition: Condition
    asked_at: datetime | None = None
    replaces: bool = False  # the credential was refused, and should be replaced


def proof_rows(form: Form, zones: list[services.ZoneProof], *, is_looked: bool) -> list[ProofRow]:
    method = str(form.given.get("method") or Certificate.VerifyMethod.DNS_01)
    if method in BY_AGENT:
        device = form.device()
        by = str(device) if device else _("no device")
        port = 80 if method == Certificate.VerifyMethod.HTTP_01 else 443
        how = _("%(method)s: the agent answers on port %(port)d") % {"method": method, "port": port}
        chosen = Condition("plain", "new", _("asked at the order"))
        condition = chosen if device else Condition("you", "you", _("choose a device"))
        return [ProofRow(each, by, how, condition) for each in zones]
    credential = form.credential()
    if not credential and not delegation.is_offered():
        lacks = Condition("you", "you", _("choose a credential"))
        how = _("a TXT record for each name")
        return [ProofRow(each, _("no credential"), how, lacks) for each in zones]
    by = credential.name if credential else _("the service zone, by CNAME")
    rows = []
    for each in zones:
        condition = condition_of_zone(form, each, is_looked=is_looked)
        is_refused = bool(credential and condition.kind == "you")
        asked_at = credential.checked_at if credential and is_refused else None
        if is_looked and each.is_seen is not None:
            asked_at = clock.now()
        how = _("a TXT record for each name")
        rows.append(ProofRow(each, by, how, condition, asked_at, is_refused))
    return rows


def condition_of_zone(form: Form, zone: services.ZoneProof, *, is_looked: bool) -> Condition:
    if is_looked and zone.is_seen is not None:
        if zone.is_seen:
            return Condition("works", "works", _("sees the zone"))
        return Condition("you", "you", _("refused"))
    credential, last = form.credential(), form.named(zone.proved_by)
    if credential and credential.last_error:
        return Condition("you", "you", _("refused"))
    if credential and last == credential:
        return Condition("plain", "ok", _("proved it before"))
    if last:
        return Condition("waits", "waits", _("%(name)s proved it before") % {"name": last.name})
    return Condition("plain", "new", _("no answer") if is_looked else _("not asked yet"))


def summary(form: Form, names: list[str]) -> dict[str, Any]:
    """Return the certificate that the form would make, in a few words, and its call of the API."""
    account = form.account()
    given = form.given
    key = dict(KEYS).get(given.get("key") or "", _("the key type of the account"))
    expected = None
    if account and names:
        before = number(str(given.get("before", "")))
        expected = services.expected(account, str(given.get("profile") or ""), before)
    return {
        "names": len(names),
        "account": account,
        "words": _(", ").join(
            [
                *([str(catalog.info(account.ca_provider).label)] if account else []),
                *(key, str(given.get("policy") or Envelope.Policy.HYBRID)),
            ]
        ),
        "expected": expected,
    }


class Issue(Page):
    keeps = (*FIELDS, "also")

    def get(self, request: HttpRequest) -> HttpResponse:
        given = defaults(self.owner)
        if kept := self.kept_fields():
            given = {name: kept.get(name, [""])[0] for name in FIELDS}
            given["also"] = kept.get("also", [])
        elif names := request.GET.get("names", "")[:MOST_TYPED]:
            given["names"] = names
        form = Form(self.owner, given)
        form.choose_the_only_ones()
        form.match()
        return self.page(form)

    @sensitive_variables()
    def post(self, request: HttpRequest) -> HttpResponse:
        form = Form(self.owner, fields_of(request.POST))
        if left_out := request.POST.get("leave"):
            rest = [each for each in typed_names(form.given["names"]) if each != left_out]
            form.given = {**form.given, "names": "\n".join(rest)}
            form.match()
            return self.page(form)
        action = request.POST.get("action")
        if action not in ("issue", "later"):
            form.match()
            return self.look(form)
        key = request.POST.get(FORM_KEY, "")
        try:
            spec = form.spec(later=action == "later")
            sent = Idempotency(f"page {key[:200]}", digest(action, spec.digest()))
            certificate, issuance = services.create_certificate(
                self.owner,
                spec,
                issue=action == "issue",
                idempotency=sent if key else None,
                unless_same_names=not form.given["second"],
            )
        except Exception as exc:
            refused = refusal_of(exc)
            if not refused:
                raise
            if isinstance(refused, services.SameNames):
                refused = errors.Conflict(
                    _(
                        "Nothing was ordered, because you have a certificate with exactly these "
                        "names. Renew that one, or tick the box below the names and press the "
                        "button again."
                    )
                )
            return self.page(form, refused=refused, status=refused.status)
        if issuance:
            return to_attempt(issuance)
        if action == "later":
            messages.success(request, _("The certificate is recorded. Nothing was ordered."))
        return HttpResponseRedirect(reverse("certificate", args=[certificate.pk]))

    def look(self, form: Form) -> HttpResponse:
        """Show what the CA will find. No order is sent."""
        try:
            spec = form.spec()
            if not spec.account.is_private:
                count(throttles.PreflightThrottle(), self.request, self)
            with outward.for_owner(self.owner.pk):
                facts: dict[str, Any] = services.look(self.owner, spec)._asdict()
            looks = (number(self.request.POST.get("looks", "")) or 0) + 1
            facts["looks"] = looks if any(each.blocks for each in facts["findings"]) else 0
        except Exception as exc:
            refused = refusal_of(exc)
            if not refused:
                raise
            facts = {"refused": refused}
        return self.page(form, looked=True, **facts)

    def page(self, form: Form, status: int = 200, **facts: Any) -> HttpResponse:
        account = form.account()
        is_private = form.is_private()
        found = checked(typed_names(str(form.given.get("names", ""))), private=is_private)
        names = form.good_names
        is_looked = bool(facts.get("looked"))
        zones = facts.get("zones", [])
        if not zones and not is_private:
            zones = form.zones
        template = "issue.html"
        if is_partial(self.request):
            template = "issue_found.html" if is_looked else "issue_names.html"
        me = self.request.build_absolute_uri(f"{settings.URL_PREFIX}/apiv1/me/certificates")
        context = {
            "here": "certificates",
            "form": form,
            "given": form.given,
            "checked": found,
            "good": len([each for each in found if not each.wrong]),
            "bad": len([each for each in found if each.wrong]),
            "companions": companions(found),
            **there_already(form, account, names),
            "proofs": proof_rows(form, zones, is_looked=is_looked),
            "several": len({each.proved_by for each in zones if form.named(each.proved_by)}) > 1,
            "summary": summary(form, names),
            "curl": curl(me, "POST", form.body(names)),
            "blocking": len([each for each in facts.get("findings", ()) if each.blocks]),
            "looks_again": is_partial(self.request) and 0 < facts.get("looks", 0) < MOST_LOOKS,
            "is_partial": is_partial(self.request),
            "keys": KEYS,
            "policies": Envelope.Policy.choices,
            "methods": Certificate.VerifyMethod.values,
            "profiles": sorted(catalog.info(account.ca_provider).profiles) if account else [],
            "is_private": is_private,
            "service_zone": delegation.is_offered(),
            FORM_KEY: self.request.POST.get(FORM_KEY) or secrets.token_urlsafe(16),
            **facts,
        }
        if isinstance(facts.get("refused"), errors.IdempotencyConflict):
            context[FORM_KEY] = secrets.token_urlsafe(16)
        return show(self.request, template, context, status=status)


class IssueNames(Issue):
    """The names of the form, checked as they are typed."""

    http_method_names = ("post",)

    def post(self, request: HttpRequest) -> HttpResponse:
        form = Form(self.owner, fields_of(request.POST))
        form.match()
        return self.page(form)
