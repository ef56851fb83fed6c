"""The audit log: who did what to which object, and whether an event is as it was sealed."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from asgiref.sync import sync_to_async
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import pgettext

from accounts import audit, chain
from accounts.auditapi import AuditQuery
from accounts.models import AuditEvent
from certctrl import errors
from certctrl.errorshape import refusal_of
from dashboard.certificate import REASONS
from dashboard.conditions import Condition
from dashboard.page import Page, rows_of, show
from issuance import services

BATCH = 1000  # events that a file reads at a time
ASKED = ("actor", "action", "object", "since", "until")


def asked_of(request: HttpRequest) -> dict[str, str]:
    return {name: request.GET.get(name, "").strip() for name in ASKED}


class AuditPage(Page):
    def events(self) -> QuerySet[AuditEvent]:
        """Return the events that the address asks for. Raise Invalid."""
        asked = {name: text for name, text in asked_of(self.request).items() if text}
        return audit.events_of(self.owner, AuditQuery().run_validation(asked))


class AuditList(AuditPage):
    def get(self, request: HttpRequest) -> HttpResponse:
        refused: errors.ApiError | None = None
        try:
            found = self.events()
        except Exception as exc:
            refused = refusal_of(exc)
            if not refused:
                raise
            found = AuditEvent.objects.none()
        page = rows_of(request, found)
        intact = [chain.is_intact(each) for each in page.rows]
        asked = asked_of(request)
        context = {
            "here": "setup",
            "page": page,
            "rows": [
                (each, condition_of(each, is_it), detail_of(each))
                for each, is_it in zip(page.rows, intact, strict=True)
            ],
            "asked": asked,
            "is_filtered": any(asked.values()),
            "changed": intact.count(False),
            "export": f"?{request.GET.urlencode()}",
            "refused": refused,
        }
        return show(request, "audit.html", context, status=refused.status if refused else 200)


def condition_of(event: AuditEvent, is_intact: bool | None) -> Condition:
    if is_intact is None:
        return Condition("plain", "new", _("not sealed yet"))
    if is_intact:
        return Condition("plain", "ok", _("sealed as %(place)d") % {"place": event.place})
    return Condition("you", "you", _("changed after it was sealed"))


def detail_of(event: AuditEvent) -> list[tuple[str, str]]:
    """Return the names and values of the detail, with the values in words."""
    words = {name: in_words(value) for name, value in event.detail.items()}
    if event.action == "certificate.revoked" and "reason" in words:
        words["reason"] = reason_words(event.detail["reason"])
    return list(words.items())


def in_words(value: Any) -> str:
    """Return a JSON value as a person reads it."""
    if isinstance(value, Mapping):
        pairs = [f"{name}{_(': ')}{in_words(each)}" for name, each in value.items()]
        return _("; ").join(pairs) or _("none")
    if isinstance(value, list):
        return _(", ").join(map(in_words, value)) or _("none")
    if isinstance(value, bool):
        return pgettext("value", "yes") if value else pgettext("value", "no")
    return _("none") if value in (None, "") else str(value)


def reason_words(number: Any) -> str:
    """Return the name of a reason for a revocation, and its meaning where it has one."""
    name = next((each for each, code in services.REASONS.items() if code == number), "")
    meaning = REASONS.get(name)
    return f"{name}{_(': ')}{meaning}" if meaning else name or in_words(number)


class AuditFile(AuditPage):
    """The same events in a file: one JSON object on each line, as in an archive."""

    def get(self, request: HttpRequest) -> StreamingHttpResponse:
        headers = {"Content-Disposition": 'attachment; filename="audit.jsonl"'}
        lines = lines_of(self.events())
        return StreamingHttpResponse(lines, content_type="application/jsonl", headers=headers)


async def lines_of(events: QuerySet[AuditEvent]) -> AsyncIterator[str]:
    """Yield the events, newest first. Each batch is read by one statement of its own."""
    last = None
    while batch := await sync_to_async(batch_of)(events, last):
        last = batch[-1].pk
        yield "".join(f"{json.dumps(chain.entry_of(each))}\n" for each in batch)


def batch_of(events: QuerySet[AuditEvent], last: int | None) -> list[AuditEvent]:
    older = events.filter(pk__lt=last) if last else events
    return list(older.order_by("-pk")[:BATCH])
