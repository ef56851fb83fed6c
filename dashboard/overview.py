"""The overview: will anything expire?"""

from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from authorities.catalog import LimitKind
from dashboard import drawing
from dashboard.certificates import rows_of, shown
from dashboard.conditions import said
from dashboard.devices import behind_of
from dashboard.page import Page, show
from dnsclient.names import registered_domain
from issuance import ratelimits, services
from issuance.models import Issuance

MOST_LANES = 24  # certificates with a line each
MOST_CASES = 10  # causes
MOST_RETRIED = 10  # certificates that are tried again
MOST_LIMITS = 6
MOST_WAITING = 100  # certificates that are grouped by cause


class Overview(Page):
    def get(self, request: HttpRequest) -> HttpResponse:
        rows = services.of_owner(self.owner)
        total = services.total(self.owner)
        dated = shown(rows.filter(expires_at__isnull=False)).order_by("expires_at", "pk")
        lanes = rows_of(list(dated[:MOST_LANES]))
        needing, moving = (services.of_condition(rows, each) for each in ("you", "open"))
        waiting = rows_of(list(shown(needing).order_by("expires_at", "pk")[:MOST_WAITING]))
        # An attempt may have ended since the certificates were read.
        open_ones = shown(moving).order_by("pk")[:MOST_LANES]
        in_progress = [each for each in open_ones if getattr(each, "open_issuances")]  # noqa: B009
        again = services.of_condition(rows, "again")
        context: dict[str, Any] = {
            "retried": rows_of(list(shown(again).order_by("renew_at", "pk")[:MOST_RETRIED])),
            **behind_of(self.owner),
            "limits": [limit_row(each) for each in ratelimits.scarce(self.owner)[:MOST_LIMITS]],
            "here": "overview",
            "total": total,
            "lanes": lanes,
            "more": total - len(lanes),
            "soonest": services.soonest(self.owner),
            "waiting": services.count(needing),
            "again": services.count(again),
            "causes": causes(waiting),
            "expired": services.count(services.of_condition(rows, "expired")),
            "in_progress": rows_of(in_progress),
            "chart": drawing.days(services.by_day(self.owner)) if total > MOST_LANES else "",
        }
        return show(request, "overview.html", context)


def limit_row(level: dict[str, Any]) -> dict[str, Any]:
    """Return a limit with its drawing and its words."""
    words = {
        LimitKind.ACCOUNT: _("new orders of"),
        LimitKind.DOMAIN: _("certificates of"),
        LimitKind.SET: _("certificates of exactly"),
        LimitKind.FAILURES: _("failed validations of"),
        LimitKind.BUSY: _("requests of"),
    }
    numbers = {"left": int(level["left"]), "capacity": int(level["capacity"])}
    label = _("%(left)d of %(capacity)d left") % numbers
    each = level["seconds_for_one"]
    return level | {
        "what": words[level["kind"]],
        "drawing": drawing.bucket(level["left"], level["capacity"], label),
        "label": label,
        "each": timedelta(seconds=each) if each else None,
    }


def causes(waiting: list[Any]) -> list[dict[str, Any]]:
    """Return what needs a person, by cause. Each has the certificates that wait for it.

    One cause is the same error of one DNS credential, or of the names of one registered domain.
    """
    by_cause: dict[tuple[str, int | str | None], dict[str, Any]] = {}
    for row in waiting:
        failed: Issuance | None = row.certificate.last_failed
        code = failed.error_code if failed else ""
        shared: int | str | None = registered_domain(row.certificate.domain.removeprefix("*."))
        if failed and "credential" in code:
            shared = failed.credential_id
        is_credential = isinstance(shared, int)
        case = by_cause.setdefault(
            (code, shared),
            {
                "code": code,
                "said": said(row.condition.note),
                "is_credential": is_credential,
                "query": urlencode({"credential" if is_credential else "q": shared}),
                "rows": [],
            },
        )
        case["rows"].append(row)
    return list(by_cause.values())[:MOST_CASES]
