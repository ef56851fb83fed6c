"""One action on many certificates. The dry run comes first, and says what will happen to each."""

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts import audit
from certctrl import errors
from dashboard.certificate import REASONS
from dashboard.certificates import BULK, asked_in, filter_of
from dashboard.page import ALL, FORM_KEY, Page, number, show
from issuance import services
from issuance.models import digest
from issuance.services import Idempotency


class BulkPage(Page):
    keeps = ALL
    only_acts = True

    def get(self, request: HttpRequest) -> HttpResponse:
        """Lead to the list. The button was pressed after the session ended."""
        return HttpResponseRedirect(reverse("certificates"))

    def post(self, request: HttpRequest) -> HttpResponse:
        sent = request.POST
        self.name = sent.get("do", "")
        self.label = sent.get("label", "")
        self.reason = sent.get("reason") or next(iter(REASONS))
        self.action = services.action_of(
            self.name,
            reason=self.reason,
            label=self.label,
            actor=audit.actor_of(request),
            ip=audit.ip_of(request),
        )
        rows = services.of_owner(self.owner)
        ids = [pk for text in sent.getlist("id") if (pk := number(text))]
        if not sent.get("confirmed"):
            if sent.get("all"):
                asked = filter_of(asked_in(QueryDict(sent.get("query"))))
                chosen = services.chosen(services.found(rows, self.owner, asked))
            else:
                chosen = services.chosen(rows, ids)
            return self.page(services.dry_run(self.action, chosen))
        # The dry run named each certificate. Nothing is done to one that it did not name.
        if self.name == "revoke" and number(sent.get("count", "").strip()) != len(ids):
            what = _("Type %(count)d, the number of certificates, to go on. Nothing was done.")
            refused = errors.Invalid(what % {"count": len(ids)})
            results = services.dry_run(self.action, services.chosen(rows, ids))
            return self.page(results, refused=refused, status=refused.status)
        key = sent.get(FORM_KEY, "")
        what_is_sent = digest("bulk", self.name, ids, self.label, self.reason)
        results = services.act(
            self.owner,
            self.action,
            lambda: services.chosen(rows, ids),
            Idempotency(f"page {key[:200]}", what_is_sent) if key else None,
        )
        return self.page(results, is_done=True)

    def page(self, results: list[services.Result], status: int = 200, **facts: Any) -> HttpResponse:
        is_done = bool(facts.get("is_done"))
        groups = [
            ("refused", "you", _("Refused")),
            ("done", "works", _("Done") if is_done else _("Will be done")),
            ("unchanged", "ok", _("Nothing to do")),
        ]
        rows = {
            outcome: [each for each in results if each.outcome == outcome]
            for outcome, _mark, _word in groups
        }
        context = {
            "here": "certificates",
            "name": self.name,
            "word": dict(BULK)[self.name],
            "label": self.label,
            "reason": self.reason,
            "reasons": REASONS.items(),
            "results": results,
            "done": rows["done"],
            "refused_ones": rows["refused"],
            "groups": [
                {"outcome": outcome, "mark": mark, "word": word, "rows": rows[outcome]}
                for outcome, mark, word in groups
            ],
            **facts,
        }
        return show(self.request, "bulk.html", context, status=status)
