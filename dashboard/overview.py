"""The overview: will anything expire?"""

from typing import Any

from django.http import HttpRequest, HttpResponse

from dashboard import drawing
from dashboard.certificates import rows_of, shown
from dashboard.page import Page, show
from issuance import services
from issuance.models import Issuance

MOST_LANES = 24  # certificates with a line each
MOST_CASES = 10  # causes
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
        context: dict[str, Any] = {
            "here": "overview",
            "total": total,
            "lanes": lanes,
            "more": total - len(lanes),
            "soonest": lanes[0].certificate if lanes else None,
            "waiting": services.count(needing),
            "again": services.count(services.of_condition(rows, "again")),
            "causes": causes(waiting),
            "expired": services.count(services.of_condition(rows, "expired")),
            "in_progress": rows_of(in_progress),
            "chart": drawing.days(services.by_day(self.owner)) if total > MOST_LANES else "",
        }
        return show(request, "overview.html", context)


def causes(waiting: list[Any]) -> list[dict[str, Any]]:
    """Return what needs a person, by cause. Each has the certificates that wait for it."""
    by_cause: dict[tuple[str, int | str], dict[str, Any]] = {}
    for row in waiting:
        failed: Issuance | None = row.certificate.last_failed
        code = failed.error_code if failed else ""
        shared = (failed.credential_id if failed else None) or row.certificate.pk
        is_credential = "credential" in code
        key = (code, shared if is_credential else f"certificate {row.certificate.pk}")
        case = by_cause.setdefault(key, {"code": code, "what": row.condition.note, "rows": []})
        case["rows"].append(row)
    return list(by_cause.values())[:MOST_CASES]
