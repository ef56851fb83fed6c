"""The pages of what certificates need: DNS credentials, ACME accounts, private CAs, API keys."""

import csv
from collections.abc import AsyncIterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib import messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.debug import sensitive_variables

from accounts import audit, services
from accounts.models import ApiKey
from accounts.permissions import PERMISSIONS
from accounts.serializers import ApiKeyRequest
from authorities import accounts, catalog, exchanges, privateca
from authorities.models import AcmeAccount, PrivateCA
from authorities.requests import AccountRequest, PrivateCARequest
from certctrl import errors, outward
from certctrl.errorshape import refusal_of
from dashboard.page import FormKey, Page, count, need_fresh_login, number, show
from dnsproviders import credentials, registry
from dnsproviders.api import CredentialCheckThrottle
from dnsproviders.models import DnsCredential
from issuance.models import CertificateVersion

MOST_ROWS = 500
DAY = 86400
READ_AT_ONCE = 1000  # versions of a CA


class SetupPage(Page):
    """A list with a form for one more, and buttons in its rows.

    A subclass sets `name`, `template` and `actions`, and has `rows()`, `facts()` and `create()`.
    The button `x` calls `do_x(row)`.
    """

    name = ""
    template = ""
    here = "setup"
    actions: tuple[str, ...] = ()
    kept: Mapping[str, str] = MappingProxyType({})  # a form that was sent without a session

    def rows(self) -> QuerySet[Any]:
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        return {}

    def create(self) -> HttpResponse | None:
        raise NotImplementedError

    def prepare(self, rows: list[Any]) -> None:
        """Add to the rows what only the template needs."""

    def refuse_other_name(self, row: Any) -> None:
        """Raise Invalid unless the person typed the name of the row."""
        if self.request.POST.get("typed", "").strip() != row.name:
            raise errors.Invalid(
                _("Type %(name)s to go on. Nothing was done.") % {"name": row.name}, field="typed"
            )

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        if kwargs:  # a button that was pressed after the session ended
            return HttpResponseRedirect(reverse(self.name))
        self.kept = {name: values[0] for name, values in self.kept_fields().items() if values}
        return self.page(dict(self.kept))

    @sensitive_variables()
    def post(
        self, request: HttpRequest, pk: int | None = None, action: str = "create"
    ) -> HttpResponse:
        try:
            with FormKey(request):
                done = self.act(pk, action) if pk else self.create()
        except Exception as exc:
            refused = refusal_of(exc)
            if not refused or isinstance(refused, errors.NotFound):
                raise
            if pk:
                return self.page({}, refused=refused, status=refused.status, tried=(pk, action))
            given = {name: request.POST.get(name, "") for name in self.keeps}
            return self.page(given, refused=refused, status=refused.status)
        return done or HttpResponseRedirect(reverse(self.name))

    def act(self, pk: int, action: str) -> HttpResponse | None:
        row = self.rows().filter(pk=pk).first()
        if row is None or action not in self.actions:
            raise errors.NotFound(_("There is no such object, or it is not yours."))
        done: HttpResponse | None = getattr(self, f"do_{action}")(row)
        return done

    def page(self, given: dict[str, str], status: int = 200, **facts: Any) -> HttpResponse:
        rows = list(self.rows().order_by("-pk")[:MOST_ROWS])
        self.prepare(rows)
        context = {"here": self.here, "rows": rows, "given": given, **self.facts(), **facts}
        return show(self.request, self.template, context, status=status)

    def done(self, what: str) -> None:
        messages.success(self.request, what)


class DnsCredentials(SetupPage):
    name = "dns-credentials"
    template = "dns_credentials.html"
    actions = ("check", "change", "delete")

    @cached_property
    def catalog(self) -> list[dict[str, Any]]:
        return registry.catalog()

    @property
    def provider(self) -> dict[str, Any]:
        """Return the provider of the form, as in the API's catalog."""
        sent = (self.request.POST, self.kept, self.request.GET)
        wanted = next((each["provider"] for each in sent if each.get("provider")), "")
        found = [each for each in self.catalog if each["id"] == wanted]
        return found[0] if found else self.catalog[0]

    @property
    def keeps(self) -> tuple[str, ...]:  # type: ignore[override]
        fields = [field for each in self.catalog for field in each["fields"]]
        secret = {each["name"] for each in fields if each["secret"]}
        public = dict.fromkeys(each["name"] for each in fields if each["name"] not in secret)
        return ("provider", *public, "typed")

    def rows(self) -> QuerySet[Any]:
        rows = DnsCredential.objects.filter(owner=self.owner, retired_at=None)
        return rows.select_related("disablement")

    def facts(self) -> dict[str, Any]:
        words = {value: _(label) for value, label in DnsCredential.PropagationCheck.choices}
        return {"catalog": self.catalog, "provider": self.provider, "words": words}

    @sensitive_variables()
    def create(self) -> None:
        names = {each["name"]: each for each in self.provider["fields"]}
        data: dict[str, Any] = {"provider": self.provider["id"]}
        for name, field in names.items():
            if text := self.request.POST.get(name, "").strip():
                data[name] = typed(field, text)
        credential = credentials.create_credential(self.owner, data)
        self.done(_("%(name)s is stored. Test it before you rely on it.") % {"name": credential})

    def prepare(self, rows: list[DnsCredential]) -> None:
        """Give each row the fields of its provider, with the values that are no secrets."""
        fields = {each["id"]: each["fields"] for each in self.catalog}
        for row in rows:
            row.note = registry.what_is_disabled(row.disabled) if row.disabled else ""  # type: ignore[attr-defined]
            row.fields = [(each, shown(row, each)) for each in fields[row.provider]]  # type: ignore[attr-defined]

    @sensitive_variables()
    def do_change(self, row: DnsCredential) -> None:
        """Store the fields that are not as they were shown. An empty secret stays."""
        self.prepare([row])
        data: dict[str, Any] = {}
        for field, before in row.fields:  # type: ignore[attr-defined]
            text = self.request.POST.get(field["name"], "").strip()
            if text == before or (field["secret"] and not text):
                continue
            data[field["name"]] = typed(field, text) if text else None
        credentials.update_credential(row, data)
        self.done(_("%(name)s is changed. Test it before you rely on it.") % {"name": row.name})

    def do_check(self, row: DnsCredential) -> None:
        count(CredentialCheckThrottle(), self.request, self)
        name = self.request.POST.get("name", "").strip()
        with outward.for_owner(self.owner.pk):
            calls = credentials.check_credential(row, name)
        if name:
            said = ", ".join(f"{each.method} {each.url} {each.answer}" for each in calls)
            what = _("A TXT record of %(name)s was written and removed. The calls: %(said)s")
            self.done(what % {"name": name, "said": said})
        else:
            self.done(_("The provider accepts %(name)s.") % {"name": row.name})

    def do_delete(self, row: DnsCredential) -> None:
        self.refuse_other_name(row)
        credentials.retire_credential(row)
        self.done(_("%(name)s is deleted.") % {"name": row.name})


def typed(field: dict[str, Any], text: str) -> int | str:
    """Return the value of a field that a person typed. A text that is no number stays a text."""
    whole = number(text) if field["type"] == "integer" else None
    return text if whole is None else whole


def shown(row: DnsCredential, field: dict[str, Any]) -> str:
    """Return the value of a field of the credential as a form has it; "" for a secret."""
    if field["secret"]:
        return ""
    name = field["name"]
    value = row.public.get(name, getattr(row, name, None))
    return "" if value is None else str(value)


class Accounts(SetupPage):
    name = "accounts"
    template = "accounts.html"
    actions = ("register", "change", "delete")
    keeps = (
        *("name", "ca", "email", "directory_url", "eab_kid"),
        *("debugging", "save_requests", "typed"),
    )

    def rows(self) -> QuerySet[Any]:
        rows = AcmeAccount.objects.filter(owner=self.owner, retired_at=None)
        return rows.select_related("private_ca")

    def facts(self) -> dict[str, Any]:
        cas = PrivateCA.objects.filter(owner=self.owner, status=PrivateCA.Status.ACTIVE)
        public = [each for each in catalog.known().values() if each.name != catalog.SELF_CA]
        return {"cas": public, "private_cas": cas.order_by("name").only("name")}

    @sensitive_variables()
    def create(self) -> None:
        sent = self.request.POST
        body: dict[str, Any] = {"terms_accepted": bool(sent.get("terms"))}
        ca = sent.get("ca", "")
        if ca.startswith("private-") and (pk := number(ca.removeprefix("private-"))):
            body["ca_id"] = pk
        else:
            body["ca_provider"] = ca
        for name in ("name", "email", "directory_url", "eab_kid", "eab_hmac_key"):
            if text := sent.get(name, "").strip():
                body[name] = text
        given = AccountRequest().run_validation(body)
        account = accounts.create_account(self.owner, given)
        self.done(_("%(name)s is stored. It registers at the CA now.") % {"name": account.name})

    def do_register(self, row: AcmeAccount) -> None:
        accounts.retry_registration(row)
        self.done(_("%(name)s registers at the CA again.") % {"name": row.name})

    def do_change(self, row: AcmeAccount) -> None:
        sent = self.request.POST
        body = {name: sent.get(name, "").strip() for name in ("name", "email")}
        debugging = {
            "log_level": exchanges.DEBUG if sent.get("debugging") else "",
            "save_requests": bool(sent.get("save_requests")),
        }
        accounts.update_account(row, AccountRequest(partial=True).run_validation(body | debugging))
        self.done(_("%(name)s is changed.") % {"name": row.name})

    def do_delete(self, row: AcmeAccount) -> None:
        self.refuse_other_name(row)
        accounts.retire_account(row)
        self.done(_("%(name)s is deleted.") % {"name": row.name})


class PrivateCAs(SetupPage):
    name = "private-cas"
    template = "private_cas.html"
    actions = ("delete",)
    keeps = ("name", "common_name", "organization", "country", "valid_days", "kind", "typed")

    def rows(self) -> QuerySet[Any]:
        return PrivateCA.objects.filter(owner=self.owner, status=PrivateCA.Status.ACTIVE)

    def facts(self) -> dict[str, Any]:
        return {"kinds": (("ECDSA-256", "ECDSA P-256"), ("ECDSA-384", "ECDSA P-384"))}

    def create(self) -> None:
        sent = self.request.POST
        algorithm, _dash, size = (sent.get("kind") or "ECDSA-256").partition("-")
        body: dict[str, Any] = {"algorithm": algorithm, "key_size": size}
        for name in ("name", "common_name", "organization", "country", "valid_days"):
            if text := sent.get(name, "").strip():
                body[name] = text
        given = PrivateCARequest().run_validation(body)
        with transaction.atomic():
            private_ca = privateca.create_private_ca(self.owner, given)
            # An account of it is what the form of a certificate offers.
            accounts.account_of_private_ca(private_ca)
        self.done(_("%(name)s can sign certificates now.") % {"name": private_ca.name})

    def do_delete(self, row: PrivateCA) -> None:
        self.refuse_other_name(row)
        accounts.retire_private_ca(row)
        self.done(_("%(name)s is deleted.") % {"name": row.name})


class CAFile(Page):
    """The certificate of a private CA, for those who shall trust it."""

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        private_ca = PrivateCA.objects.filter(owner=self.owner, pk=pk).first()
        if not private_ca:
            raise errors.NotFound(_("There is no such object, or it is not yours."))
        headers = {"Content-Disposition": f'attachment; filename="ca-{pk}.pem"'}
        return HttpResponse(
            private_ca.certificate_pem, content_type="application/x-pem-file", headers=headers
        )


class CAIssued(Page):
    """The certificates that a private CA has issued, as CSV."""

    def get(self, request: HttpRequest, pk: int) -> StreamingHttpResponse:
        if not PrivateCA.objects.filter(owner=self.owner, pk=pk).exists():
            raise errors.NotFound(_("There is no such object, or it is not yours."))
        headers = {"Content-Disposition": f'attachment; filename="ca-{pk}-issued.csv"'}
        return StreamingHttpResponse(issued(pk), content_type="text/csv", headers=headers)


class Echo:
    """A file that returns what is written to it."""

    def write(self, text: str) -> str:
        return text


def versions_after(private_ca_id: int, after: int) -> list[tuple[Any, ...]]:
    """Return the next versions that the CA has issued, as many as are read at once."""
    versions = CertificateVersion.objects.filter(account__private_ca=private_ca_id, pk__gt=after)
    read = ("pk", "certificate__names", *("serial", "not_before", "not_after", "revoked_at"))
    return list(versions.order_by("pk").values_list(*read, "fingerprint")[:READ_AT_ONCE])


async def issued(private_ca_id: int) -> AsyncIterator[str]:
    columns = ("serial", "names", "not_before", "not_after", "revoked_at", "fingerprint_sha256")
    writer = csv.writer(Echo())
    yield writer.writerow(columns)
    last = 0
    while versions := await sync_to_async(versions_after)(private_ca_id, last):
        last = versions[-1][0]
        rows = []
        for _pk, names, serial, *times, fingerprint in versions:
            shown = [at.isoformat() if at else "" for at in times]
            rows.append(writer.writerow([serial, " ".join(names), *shown, fingerprint]))
        yield "".join(rows)


class ApiKeys(SetupPage):
    name = "api-keys"
    template = "api_keys.html"
    actions = ("revoke",)
    keeps = ("name", "days")
    MAY = (
        (
            "read",
            gettext_lazy("read everything, and export where allowed"),
            ("read",),
        ),
        ("issue", gettext_lazy("issue, renew and revoke too"), ("read", "issue")),
        ("all", gettext_lazy("change everything too"), ("read", "issue", "write")),
    )

    def rows(self) -> QuerySet[Any]:
        return ApiKey.objects.filter(owner=self.owner, revoked_at=None)

    def facts(self) -> dict[str, Any]:
        return {"may": [each[:2] for each in self.MAY]}

    @sensitive_variables()
    def create(self) -> HttpResponse:
        """Show the page with the token, this once."""
        sent = self.request.POST
        wanted = {name: actions for name, _words, actions in self.MAY}.get(sent.get("may", ""))
        if not wanted:
            raise errors.MissingField(_("Choose what the key may do."), field="permissions")
        grants = [
            {"obtype": obtype, "obid": "*", "actions": allowed}
            for obtype, (_words, known) in PERMISSIONS.items()
            if (allowed := [each for each in known if each in wanted])
        ]
        days = number(sent.get("days", "")) or 0
        body = {"name": sent.get("name", ""), "permissions": grants}
        given = ApiKeyRequest().run_validation(body | {"expires_in_seconds": days * DAY})
        need_fresh_login(self.request)
        key, token = services.create_api_key(self.owner, **given, ip=audit.ip_of(self.request))
        response = self.page({}, new_key=key, token=token)
        response["Cache-Control"] = "no-store"
        return response

    def do_revoke(self, row: ApiKey) -> None:
        services.revoke_api_key(row)
        self.done(_("%(name)s is revoked.") % {"name": row.name})
