"""The form that issues a certificate. Names and zones are checked before its button."""

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables

from accounts.models import User
from authorities import catalog
from authorities.models import AcmeAccount
from certctrl import errors, outward
from certctrl.errorshape import refusal_of
from dashboard.certificate import to_attempt
from dashboard.certificates import MOST_CHOICES, choices, shown, usable_accounts
from dashboard.changing import KEYS
from dashboard.conditions import condition_of, note_failures
from dashboard.page import FORM_KEY, SEPARATORS, Page, count, is_partial, number, show
from devices.models import Device
from dnsproviders.models import DnsCredential
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
    *("fallback", "before", "auto_renew", "reuse_key", "method", "device", "second"),
)
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


def there_already(
    form: "Form", account: AcmeAccount | None, found: list[Checked]
) -> dict[str, Any]:
    """Return the certificates with the same names, and what a second one would cost at the CA."""
    good = [each.name for each in found if each.name]
    names = list(dict.fromkeys([*good, *form.given.get("also", ())]))
    ids = services.with_names(form.owner, names)[:MOST_SAME]
    same = list(shown(services.of_owner(form.owner).filter(pk__in=ids)).order_by("-pk"))
    note_failures(same)
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
        self.credentials = choices(DnsCredential, owner)
        devices = Device.objects.filter(owner=owner, status=Device.Status.ACTIVE)
        self.devices = list(devices.order_by("-pk").only("name", "public_id")[:MOST_CHOICES])

    def account(self) -> AcmeAccount | None:
        wanted = number(str(self.given.get("account", "")))
        found = [each for each in self.accounts if each.pk == wanted]
        return found[0] if found else None

    def body(self) -> dict[str, Any]:
        """Return the request of the API for this form."""
        given = self.given
        names = typed_names(str(given.get("names", ""))) + list(given.get("also", ()))
        key_type, _dash, key_size = str(given.get("key", "")).partition("-")
        body: dict[str, Any] = {
            "domain": names[0] if names else "",
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

    def spec(self, credential: DnsCredential | None = None) -> services.CertificateSpec:
        """Return the request for a certificate. Raise Invalid, MissingField or NotFound.

        A form for many certificates hands in the credential that the first one has found.
        """
        if not self.given.get("account"):
            raise errors.MissingField(_("Choose an account."), field="account")
        parsed = requests.CertificateRequest().run_validation(self.body())
        if not parsed["domain"]:
            raise errors.MissingField(_("Type at least one name."), field="domain")
        return parsing.spec_of(self.owner, parsed, self.account(), credential)


def defaults(owner: User) -> dict[str, Any]:
    """Return the values of the last certificate, so that the usual one needs only names."""
    last = services.of_owner(owner).order_by("-pk").select_related("account").first()
    given: dict[str, Any] = {"auto_renew": "on", "policy": Envelope.Policy.HYBRID, "key": ""}
    if last:
        given |= {"account": last.account_id, "credential": last.credential_id or ""}
        given |= {"method": last.verify_method, "device": last.verify_device_id or ""}
        given["policy"] = last.key_policy
        given["export"] = "on" if last.server_decrypt_export else ""
    return given


def fields_of(sent: QueryDict) -> dict[str, Any]:
    given: dict[str, Any] = {name: sent.get(name, "") for name in FIELDS}
    return given | {"also": sent.getlist("also")}


class Issue(Page):
    keeps = (*FIELDS, "also")

    def get(self, request: HttpRequest) -> HttpResponse:
        given = defaults(self.owner)
        if kept := self.kept_fields():
            given = {name: kept.get(name, [""])[0] for name in FIELDS}
            given["also"] = kept.get("also", [])
        elif names := request.GET.get("names", "")[:MOST_TYPED]:
            given["names"] = names
        return self.page(Form(self.owner, given))

    @sensitive_variables()
    def post(self, request: HttpRequest) -> HttpResponse:
        form = Form(self.owner, fields_of(request.POST))
        if left_out := request.POST.get("leave"):
            rest = [each for each in typed_names(form.given["names"]) if each != left_out]
            form.given = {**form.given, "names": "\n".join(rest)}
            return self.page(form)
        if request.POST.get("action") != "issue":
            return self.look(form)
        key = request.POST.get(FORM_KEY, "")
        try:
            spec = form.spec()
            sent = Idempotency(f"page {key[:200]}", digest("issue", spec.digest()))
            certificate, issuance = services.create_certificate(
                self.owner,
                spec,
                issue=True,
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
        return HttpResponseRedirect(reverse("certificate", args=[certificate.pk]))

    def look(self, form: Form) -> HttpResponse:
        """Show what the CA will find. No order is sent."""
        try:
            spec = form.spec()
            if not spec.account.is_private:
                count(throttles.PreflightThrottle(), self.request, self)
            with outward.for_owner(self.owner.pk):
                facts: dict[str, Any] = {"findings": services.look(self.owner, spec)}
        except Exception as exc:
            refused = refusal_of(exc)
            if not refused:
                raise
            facts = {"refused": refused}
        return self.page(form, looked=True, **facts)

    def page(self, form: Form, status: int = 200, **facts: Any) -> HttpResponse:
        account = form.account()
        names = typed_names(str(form.given.get("names", "")))
        found = checked(names, private=bool(account and account.is_private))
        template = "issue.html"
        if is_partial(self.request):
            template = "issue_found.html" if facts.get("looked") else "issue_names.html"
        context = {
            "here": "certificates",
            "form": form,
            "given": form.given,
            "checked": found,
            "good": len([each for each in found if not each.wrong]),
            "bad": len([each for each in found if each.wrong]),
            "companions": companions(found),
            **there_already(form, account, found),
            "keys": KEYS,
            "policies": Envelope.Policy.choices,
            "methods": Certificate.VerifyMethod.values,
            "profiles": sorted(catalog.info(account.ca_provider).profiles) if account else [],
            "is_private": bool(account and account.is_private),
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
        return self.page(Form(self.owner, fields_of(request.POST)))
