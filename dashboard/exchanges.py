"""The exchanges of an attempt with its CA and the DNS API, kept while debugging is on."""

import json
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from authorities.models import Exchange
from dashboard.attempts import attempt_of
from dashboard.certificate import certificate_of
from dashboard.page import Page, rows_of, show

SIZE = 20  # a body has up to 64 KiB


class Exchanges(Page):
    def get(self, request: HttpRequest, pk: int, attempt_id: int) -> HttpResponse:
        certificate = certificate_of(self, pk)
        attempt = attempt_of(certificate, attempt_id)
        page = rows_of(request, Exchange.objects.filter(attempt_id=attempt.pk), SIZE)
        context = {
            "here": "certificates",
            "certificate": certificate,
            "attempt": attempt,
            "page": page,
            "rows": [(each, told(each)) for each in page.rows],
        }
        return show(request, "exchanges.html", context)


def told(exchange: Exchange) -> list[tuple[str, str]]:
    """Return what was sent and what came back, each with its heading."""
    problem: Any = exchange.problem
    parts = (
        (_("Request"), indented(exchange.request)),
        (_("Headers"), indented(exchange.headers)),
        (_("Problem"), indented(problem)),
        (_("Response"), "" if problem else exchange.body),
    )
    return [(name, text) for name, text in parts if text]


def indented(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) if value else ""
