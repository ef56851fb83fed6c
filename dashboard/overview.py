"""The overview: will anything expire?"""

from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from authorities.catalog import LimitKind
from certctrl import clock
from dashboard import drawing
from dashboard.certificates import COLUMNS, Row, rows_of
from dashboard.conditions import note_attempts, said
from dashboard.devices import behind_of
from dashboard.page import Page, show
from dnsclient.names import registered_domain
from issuance import ratelimits, services
from issuance.models import Certificate, Issuance

MOST_LANES = 24  # certificates with a line each
MOST_CASES = 10  # causes
MOST_RETRIED = 10  # certificates that are tried again
MOST_LIMITS = 6
MOST_WAITING = 100  # certificates that are grouped by cause


class Overview(Page):
    def get(self, request: HttpRequest) -> HttpResponse:
        rows = services.of_owner(self.owner).select_related("current").only(*COLUMNS)
        total, days = services.total_and_days(self.owner)
        needing, again, moving = (
            services.of_condition(rows, each) for each in ("you", "again", "open")
        )
        dated = rows.filter(expires_at__isnull=False)
        read = [
            list(dated.order_by("expires_at", "pk")[:MOST_LANES]),
            list(needing.order_by("expires_at", "pk")[:MOST_WAITING]),
            list(again.order_by("renew_at", "pk")[:MOST_RETRIED]),
            list(moving.order_by("pk")[:MOST_LANES]),
        ]
        note_attempts([each for part in read for each in part])
        # An attempt may have ended since the certificates were read.
        read[-1] = [each for each in read[-1] if getattr(each, "open_issuances")]  # noqa: B009
        lanes, waiting, retried, in_progress = map(rows_of, read)
        context: dict[str, Any] = {
            "retried": retried,
            **behind_of(self.owner),
            "limits": [limit_row(each) for each in ratelimits.scarce(self.owner)[:MOST_LIMITS]],
            "here": "overview",
            "total": total,
            "lanes": lanes,
            "more": total - len(lanes),
            "soonest": self.soonest(lanes),
            "waiting": services.count_read(waiting, MOST_WAITING, needing),
            "again": services.count_read(retried, MOST_RETRIED, again),
            "causes": causes(waiting),
            "expired": self.expired(lanes),
            "in_progress": in_progress,
            "chart": drawing.days(days) if total > MOST_LANES else "",
        }
        return show(request, "overview.html", context)

    def soonest(self, lanes: list[Row]) -> Certificate | None:
        """Return `services.soonest`. It is asked only when no lane is that of a valid version."""
        now = clock.now()
        for each in (row.certificate for row in lanes):
            is_revoked = each.current and each.current.revoked_at
            if each.expires_at and each.expires_at > now and not is_revoked:
                return each
        return services.soonest(self.owner) if len(lanes) == MOST_LANES else None

    def expired(self, lanes: list[Row]) -> int:
        """Return how many have expired. They are counted only when all lanes are theirs."""
        now = clock.now()
        ends = [row.certificate.expires_at for row in lanes]
        past = [each for each in ends if each and each <= now]
        expired = services.of_condition(services.of_owner(self.owner), "expired")
        return services.count_read(past, MOST_LANES, expired)


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
        if (code, shared) not in by_cause:
            by_cause[code, shared] = {
                "code": code,
                "said": said(row.condition.note),
                "is_credential": is_credential,
                "query": urlencode({"credential" if is_credential else "q": shared}),
                "rows": [],
            }
        by_cause[code, shared]["rows"].append(row)
    return list(by_cause.values())[:MOST_CASES]
