"""The overview: will anything expire?"""

from datetime import timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse

from certctrl import clock
from dashboard.certificates import CHIPS, chosen, owned, rows_of, shown
from dashboard.page import Page, show
from issuance.models import Issuance

MOST_LANES = 24  # certificates with a line each
MOST_CASES = 10  # causes
LOST_AFTER = timedelta(days=30)


class Overview(Page):
    def get(self, request: HttpRequest) -> HttpResponse:
        rows = owned(self.owner)
        total = rows.count()
        dated = shown(rows.filter(expires_at__isnull=False)).order_by("expires_at", "pk")
        lanes = rows_of(list(dated[:MOST_LANES]))
        waiting = rows_of(list(shown(chosen(rows, "you")).order_by("expires_at", "pk")[:100]))
        context: dict[str, Any] = {
            "here": "overview",
            "total": total,
            "lanes": lanes,
            "more": total - len(lanes),
            "soonest": lanes[0].certificate if lanes else None,
            "waiting": chosen(rows, "you").count(),
            "again": chosen(rows, "again").count(),
            "causes": causes(waiting),
            "expired": rows.filter(expires_at__lte=clock.now()).count(),
            "in_progress": rows_of(list(shown(chosen(rows, "open")).order_by("pk")[:MOST_LANES])),
            "chips": CHIPS,
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
