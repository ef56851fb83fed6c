"""Import names from CSV: each row makes one certificate, after a preview of all rows."""

import csv
import io
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from certctrl import errors
from certctrl.errorshape import refusal_of
from dashboard.issuing import Form, defaults, typed_names
from dashboard.page import FORM_KEY, Page, show
from issuance import services
from issuance.models import digest
from issuance.services import CertificateSpec, Idempotency
from keystore.models import Envelope

MOST_ROWS = 200
MOST_CHARACTERS = 256 * 1024
HEADINGS = ("name", "names", "domain", "domains", "san", "sans", "dnsname", "hostname")
FIELDS = ("text", "account", "credential", "key", "policy", "export")


@dataclass
class ImportRow:
    """A row of the file: its line, its names, and what is wrong or was done."""

    line: int
    names: list[str]
    spec: CertificateSpec | None = None
    wrong: str = ""
    existing: int | None = None  # the certificate that has these names already
    created: int | None = None

    @property
    def is_good(self) -> bool:
        return self.spec is not None and not self.wrong and not self.existing


def rows_of(text: str) -> list[ImportRow]:
    """Return the rows that have names. Names are separated by cells, spaces or semicolons.

    Raise Invalid for text that is no CSV, and for too many rows.
    """
    reader = csv.reader(io.StringIO(text.removeprefix("\N{BYTE ORDER MARK}")), strict=True)
    rows: list[ImportRow] = []
    try:
        for cells in reader:
            names = [name for cell in cells for name in typed_names(cell)]
            is_heading = not rows and names and all(name.lower() in HEADINGS for name in names)
            if names and not is_heading:
                rows.append(ImportRow(reader.line_num, names))
    except csv.Error as exc:
        what = _("Line %(line)d is not CSV: %(why)s. Correct it.")
        raise errors.Invalid(what % {"line": reader.line_num, "why": exc}) from None
    if not rows:
        raise errors.Invalid(_("There is no name in it. Write one certificate in each row."))
    if len(rows) > MOST_ROWS:
        what = ngettext(
            "At most %(most)d row is imported at once.",
            "At most %(most)d rows are imported at once.",
            MOST_ROWS,
        )
        raise errors.Invalid(what % {"most": MOST_ROWS} + " " + _("Split the file."))
    return rows


class ImportPage(Page):
    keeps = FIELDS

    def get(self, request: HttpRequest) -> HttpResponse:
        given = defaults(self.owner)
        if kept := self.kept_fields():
            given |= {name: kept.get(name, [""])[0] for name in FIELDS}
        return self.page(given)

    def post(self, request: HttpRequest) -> HttpResponse:
        given: dict[str, Any] = {name: request.POST.get(name, "") for name in FIELDS}
        given["auto_renew"] = "on"
        rows: list[ImportRow] = []
        is_confirmed = bool(request.POST.get("confirmed"))
        try:
            if file := request.FILES.get("file"):
                given["text"] = text_of(file.read(MOST_CHARACTERS + 1))
            if len(given["text"]) > MOST_CHARACTERS:
                raise errors.Invalid(_("The file is longer than 256 KiB. Split it."))
            rows = rows_of(given["text"])
            self.judge(rows, given)
        except errors.ApiError as refused:
            return self.page(given, refused=refused, status=refused.status)
        if not is_confirmed:
            return self.page(given, rows=rows)
        for row in rows:
            if row.is_good:
                self.create(row, request.POST.get(FORM_KEY, ""))
        return self.page(given, rows=rows, is_done=True)

    def judge(self, rows: list[ImportRow], given: dict[str, Any]) -> None:
        """Find what is wrong with each row. Nothing is created."""
        form = Form(self.owner, {**given, "names": ""})
        if not form.account():
            raise errors.MissingField(_("Choose an account."), field="account")
        seen: dict[frozenset[str], int] = {}
        credential = None
        for row in rows:
            form.given = {**given, "names": "", "also": row.names}
            try:
                row.spec = form.spec(credential)
                credential = row.spec.credential
                services.judge(row.spec)
            except Exception as exc:
                refused = refusal_of(exc)
                if not refused:
                    raise
                row.wrong = refused.what
                continue
            first = seen.setdefault(frozenset(row.spec.names), row.line)
            if first != row.line:
                row.wrong = _("Line %(line)d has the same names. Leave one out.") % {"line": first}
        self.note_existing([row for row in rows if row.is_good])

    def note_existing(self, rows: list[ImportRow]) -> None:
        """Note which rows have the names of a certificate that is there already."""
        specs = [row.spec for row in rows if row.spec]
        there = services.of_owner(self.owner).filter(domain__in=[each.names[0] for each in specs])
        pks = {
            (account, frozenset(names)): pk
            for pk, account, names in there.values_list("pk", "account", "names")
        }
        for row in rows:
            if row.spec:
                row.existing = pks.get((row.spec.account.pk, frozenset(row.spec.names)))

    def create(self, row: ImportRow, key: str) -> None:
        assert row.spec
        sent = Idempotency(f"page {key[:200]} {row.line}", digest("import", row.spec.digest()))
        try:
            certificate, _issuance = services.create_certificate(
                self.owner, row.spec, issue=True, idempotency=sent if key else None
            )
            row.created = certificate.pk
        except errors.ApiError as refused:
            row.wrong = refused.what

    def page(self, given: dict[str, Any], status: int = 200, **facts: Any) -> HttpResponse:
        rows: list[ImportRow] = facts.get("rows", [])
        context = {
            "here": "certificates",
            "given": given,
            "form": Form(self.owner, given),
            "policies": Envelope.Policy.values,
            "good": [row for row in rows if row.is_good],
            "bad": [row for row in rows if row.wrong],
            "existing": [row for row in rows if row.existing],
            **facts,
        }
        return show(self.request, "import.html", context, status=status)


def text_of(content: bytes) -> str:
    if len(content) > MOST_CHARACTERS:
        raise errors.Invalid(_("The file is longer than 256 KiB. Split it."))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise errors.Invalid(_("The file is not UTF-8. Save it as CSV in UTF-8.")) from None
