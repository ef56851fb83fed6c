"""The list of certificates, page by page."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.db.models import Count, F, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.urls import reverse
from django.utils.dateparse import parse_datetime
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts import savedviews
from accounts.models import User
from authorities import catalog
from authorities.models import AcmeAccount
from certctrl import clock, errors
from dashboard import drawing
from dashboard.conditions import Condition, condition_of, note_attempts
from dashboard.page import ALL, Page, number, show
from devices.models import Device
from dnsproviders.models import DnsCredential
from issuance import services
from issuance.models import Certificate, Deployment
from keystore.models import Envelope

ROWS = (20, 100, 500)
MOST_CHOICES = 200  # accounts or credentials in a select

# The chips: value, mark, word.
CHIPS = (
    ("you", "you", gettext_lazy("Needs a person")),
    ("again", "again", gettext_lazy("Trying again")),
    ("open", "goes", gettext_lazy("In progress")),
    ("soon", "ended", gettext_lazy("Ends within 30 days")),
    ("expired", "ended", gettext_lazy("Expired")),
    ("new", "new", gettext_lazy("Never issued")),
    ("off", "off", gettext_lazy("Renewal off")),
    ("revoked", "void", gettext_lazy("Revoked")),
)
# The buttons below the list: action, word.
BULK = (
    ("renew", gettext_lazy("Renew")),
    ("renewal_on", gettext_lazy("Switch renewal on")),
    ("renewal_off", gettext_lazy("Switch renewal off")),
    ("label", gettext_lazy("Give the label")),
    ("unlabel", gettext_lazy("Remove the label")),
    ("revoke", gettext_lazy("Revoke …")),
)
SORTS = (
    ("end", gettext_lazy("Soonest end first")),
    ("new", gettext_lazy("Newest first")),
)


# The columns that tell the condition of a certificate, its name and its days.
COLUMNS = (
    "domain",
    "renew_at",
    "expires_at",
    "auto_renew",
    "failures",
    "failing_since",
    "current__not_after",
    "current__revoke_asked_at",
    "current__revoke_error",
    "current__revoked_at",
)


@dataclass(frozen=True)
class Row:
    certificate: Certificate
    condition: Condition
    # Devices that it is assigned to, and those that serve its version. Only the list knows them.
    assigned: int = 0
    served: int = 0

    @property
    def bar(self) -> SafeString:
        ends = self.certificate.expires_at
        label = _("ends %(day)s") % {"day": f"{ends:%Y-%m-%d}"} if ends else ""
        kind = self.condition.kind if self.condition.kind != "plain" else ""
        return drawing.life(kind, clock.now(), self.certificate.renew_at, ends, label)

    @property
    def more(self) -> int:
        return len(self.certificate.names) - 1


def rows_of(certificates: Sequence[Certificate]) -> list[Row]:
    """Return the rows of certificates that `note_attempts` has seen."""
    return [Row(each, condition_of(each)) for each in certificates]


def with_served(rows: Sequence[Row]) -> list[Row]:
    """Add the devices to the rows of a list, by one query."""
    active = Deployment.objects.filter(device__status=Device.Status.ACTIVE)
    of_page = active.filter(certificate__in=[row.certificate.pk for row in rows])
    serves = Q(served_serial=F("certificate__current__serial"))
    counts = of_page.values("certificate").annotate(
        assigned=Count("pk"), served=Count("pk", filter=serves)
    )
    found = {
        pk: numbers for pk, *numbers in counts.values_list("certificate", "assigned", "served")
    }
    numbers = [found.get(row.certificate.pk, (0, 0)) for row in rows]
    return [
        replace(row, assigned=assigned, served=served)
        for row, (assigned, served) in zip(rows, numbers, strict=True)
    ]


def shown(rows: QuerySet[Certificate]) -> QuerySet[Certificate]:
    """Read with each row the columns that a list shows, and no others."""
    joined = rows.select_related("account", "current")
    return joined.only(*COLUMNS, "names", "account__name")


@dataclass(frozen=True)
class Key:
    """Where a page begins: after this end and id. Never issued ones come last."""

    ends: str
    pk: int

    @classmethod
    def of(cls, text: str) -> "Key | None":
        ends, _sep, last = text.rpartition("_")
        if (pk := number(last)) is None:
            return None
        if ends:
            try:
                at = parse_datetime(ends)
                if at is None or at.tzinfo is None:
                    return None
                at.astimezone(UTC)
            except (ValueError, OverflowError):  # the first or the last day of all
                return None
        return cls(ends, pk)


def page_of(
    rows: QuerySet[Certificate], sort: str, after: str, size: int
) -> tuple[list[Certificate], str]:
    """Return one page and the key of the next page, which is empty on the last page."""
    key = Key.of(after)
    if sort == "new":
        newest = rows.order_by("-pk")
        page = list((newest.filter(pk__lt=key.pk) if key else newest)[: size + 1])
        return page[:size], f"_{page[size - 1].pk}" if len(page) > size else ""
    page = []
    if key is None or key.ends:
        dated = rows.filter(expires_at__isnull=False).order_by("expires_at", "pk")
        if key:
            later = Q(expires_at__gt=key.ends) | Q(expires_at=key.ends, pk__gt=key.pk)
            dated = dated.filter(later)
        page = list(dated[: size + 1])
    if len(page) <= size:
        never = rows.filter(expires_at=None).order_by("-pk")
        if key and not key.ends:
            never = never.filter(pk__lt=key.pk)
        page += never[: size + 1 - len(page)]
    if len(page) <= size:
        return page, ""
    last = page[size - 1]
    ends = last.expires_at.isoformat() if last.expires_at else ""
    return page[:size], f"{ends}_{last.pk}"


# The filters in the address, and the longest text of each.
FILTERS = {
    "q": 255,
    "chip": 20,
    "ca": 32,
    "account": 18,
    "credential": 18,
    "policy": 20,
    "label": 64,
    "ends": 10,
}


def asked_in(query: QueryDict) -> dict[str, str]:
    """Return the filters and the order of a list. Text that is none is left out."""
    names = {**FILTERS, "sort": 10, "after": 60}
    return {name: query.get(name, "")[:most].replace("\0", "") for name, most in names.items()}


def filter_of(asked: dict[str, str]) -> services.Filter:
    return services.Filter(
        words=asked["q"],
        condition=asked["chip"],
        account=number(asked["account"]),
        credential=number(asked["credential"]),
        ca_provider=asked["ca"],
        key_policy=asked["policy"],
        label=asked["label"],
        ends_before=day_of(asked["ends"]),
    )


def day_of(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


class CertificateList(Page):
    def get(self, request: HttpRequest) -> HttpResponse:
        asked = asked_in(request.GET)
        size = number(request.GET.get("rows", "")) or ROWS[0]
        size = size if size in ROWS else ROWS[0]
        rows = services.found(services.of_owner(self.owner), self.owner, filter_of(asked))
        page, following = page_of(
            shown(rows).prefetch_related("labels"), asked["sort"], asked["after"], size
        )
        note_attempts(page)
        accounts = choices(AcmeAccount, self.owner, "ca_provider")
        is_filtered = any(asked[name] for name in FILTERS)
        context: dict[str, Any] = {
            "here": "certificates",
            "rows": with_served(rows_of(page)),
            "total": 0 if is_filtered else services.total(self.owner),
            "asked": asked,
            "size": size,
            "sizes": [(each, address(asked, each)) for each in ROWS],
            "sorts": SORTS,
            "is_filtered": is_filtered,
            "chips": [(*chip, address(asked, size, chip=chip[0])) for chip in CHIPS],
            "all": address(asked, size, chip=""),
            "first": address(asked, size) if asked["after"] else "",
            "following": address(asked, size, after=following) if following else "",
            "accounts": accounts,
            "cas": cas_of(accounts),
            "credentials": choices(DnsCredential, self.owner),
            "policies": Envelope.Policy.values,
            "labels": services.labels_of(self.owner),
            "views": list(self.owner.saved_views.order_by("name")),
            "query": address(asked, size),
            "bulk": BULK,
        }
        return show(request, "certificates.html", context)


class ViewSaved(Page):
    """The button that gives the filters of the list a name, and the one that forgets it."""

    keeps = ALL
    only_acts = True

    def get(self, request: HttpRequest, pk: int = 0) -> HttpResponse:
        return HttpResponseRedirect(reverse("certificates"))

    def post(self, request: HttpRequest, pk: int = 0) -> HttpResponse:
        if pk:
            view = self.owner.saved_views.filter(pk=pk).first()
            if not view:
                raise errors.NotFound(_("There is no such object, or it is not yours."))
            view.delete()
            messages.success(request, _("The view %(name)s is deleted.") % {"name": view.name})
            return HttpResponseRedirect(reverse("certificates"))
        sent = request.POST
        view = savedviews.save(self.owner, sent.get("name", ""), sent.get("query", ""))
        messages.success(request, _("The view %(name)s is saved.") % {"name": view.name})
        return HttpResponseRedirect(f"{reverse('certificates')}?{view.query}")


def cas_of(accounts: Sequence[AcmeAccount]) -> list[tuple[str, str]]:
    """Return the CAs of these accounts, each with its name."""
    providers = sorted({each.ca_provider for each in accounts})
    return [(each, catalog.info(each).label) for each in providers]


def choices(kind: Any, owner: User, *columns: str) -> list[Any]:
    rows = kind.objects.filter(owner=owner, retired_at=None)
    return list(rows.order_by("name", "pk").only("name", *columns)[:MOST_CHOICES])


def usable_accounts(
    owner_id: int, used: Collection[int] = (), only: Sequence[str] = ()
) -> list[AcmeAccount]:
    """Return the accounts that may issue, and those with the ids `used`.

    They have the columns `only`, or all columns when it is empty.
    """
    rows = AcmeAccount.objects.filter(owner=owner_id, retired_at=None)
    usable = rows.exclude(status=AcmeAccount.Status.DEACTIVATED)
    if used:
        usable |= rows.filter(pk__in=used)
    return list(usable.order_by("name", "pk").only(*only)[:MOST_CHOICES])


def address(asked: dict[str, str], size: int, **changes: str) -> str:
    """Return the query of the same list with these changes. It begins at the first page."""
    wanted = {**asked, "after": "", **changes}
    if size != ROWS[0]:
        wanted["rows"] = str(size)
    return "?" + urlencode({name: value for name, value in wanted.items() if value})
