"""Notices: what was said to whom, the mail address, and the webhooks."""

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.debug import sensitive_variables

from accounts import audit
from certctrl import errors
from certctrl.errorshape import refusal_of
from dashboard.conditions import Condition
from dashboard.page import FormKey, Page, count, rows_of, show
from dashboard.setup import SetupPage
from notices import addresses, webhooks
from notices.api import (
    CodeSerializer,
    NoticeSettingsSerializer,
    NoticeTestThrottle,
    WebhookSerializer,
)
from notices.models import Delivery, Notice, NoticeSettings, Webhook, settings_of
from notices.raising import raise_test

KINDS = (
    ("renewed", gettext_lazy("renewed")),
    ("renewal_failed", gettext_lazy("a renewal failed")),
    ("expiring", gettext_lazy("a certificate ends soon")),
    ("ca_expiring", gettext_lazy("a private CA ends soon")),
    ("record_left_behind", gettext_lazy("a TXT record was not removed")),
    ("credential_refused", gettext_lazy("a DNS credential was refused")),
    ("not_served", gettext_lazy("a version is not served")),
    ("action_needed", gettext_lazy("a person must act")),
    ("audit_head", gettext_lazy("the head of the audit log")),
    ("test", gettext_lazy("a test")),
)
CALLS = (*Notice.PRESSING, Notice.Kind.RENEWAL_FAILED)


def condition_of(delivery: Delivery) -> Condition:
    if delivery.state == Delivery.State.SENT:
        return Condition("works", "works", _("sent"))
    if delivery.state == Delivery.State.GIVEN_UP:
        return Condition("fails", "fails", _("given up"), delivery.error_what)
    if delivery.state == Delivery.State.HELD:
        return Condition("waits", "waits", _("held for a digest"))
    mark = "again" if delivery.error_what else "waits"
    return Condition("waits", mark, _("waits"), delivery.error_what)


class NoticeList(Page):
    def get(self, request: HttpRequest) -> HttpResponse:
        kind = request.GET.get("kind", "")
        found = Notice.objects.filter(owner=self.owner)
        if kind in dict(KINDS):
            found = found.filter(kind=kind)
        page = rows_of(request, found.prefetch_related("deliveries__webhook"))
        words = dict(KINDS) | {Notice.Kind.CONFIRM_ADDRESS: _("an address to confirm")}
        rows = [
            {
                "notice": each,
                "kind": words.get(each.kind, each.kind),
                "calls": each.kind in CALLS,
                "deliveries": [(sent, condition_of(sent)) for sent in each.deliveries.all()],
            }
            for each in page.rows
        ]
        context = {"here": "setup", "page": page, "rows": rows, "kind": kind, "kinds": KINDS}
        return show(request, "notices.html", context)


class NoticeSettingsPage(Page):
    """The mail address, the kinds that are muted, and a test."""

    keeps = ("email", "digest_over")

    def get(self, request: HttpRequest, action: str = "") -> HttpResponse:
        if action:  # a button that was pressed after the session ended
            return HttpResponseRedirect(reverse("notice-settings"))
        kept = {name: values[0] for name, values in self.kept_fields().items() if values}
        return self.page(kept)

    def post(self, request: HttpRequest, action: str = "change") -> HttpResponse:
        acts = {
            "change": self.change,
            "code": self.send_code,
            "confirm": self.confirm,
            "test": self.test,
        }
        if action not in acts:
            raise errors.NotFound(_("There is no such page, or it is not yours."))
        try:
            acts[action]()
        except Exception as exc:
            refused = refusal_of(exc)
            if not refused:
                raise
            given = {name: request.POST[name] for name in self.keeps if name in request.POST}
            return self.page(given, refused=refused, status=refused.status)
        return HttpResponseRedirect(reverse("notice-settings"))

    def page(self, given: dict[str, str], status: int = 200, **facts: Any) -> HttpResponse:
        wanted: NoticeSettings = settings_of(self.owner.pk)
        context = {
            "here": "setup",
            "wanted": wanted,
            "note": addresses.caution_of(wanted),
            "mails": settings.MAIL_IS_SET_UP,
            "has_code": addresses.code_ends_at(wanted) is not None,
            "given": {"email": wanted.email, "digest_over": wanted.digest_over} | given,
            "kinds": KINDS,
            "hooks": Webhook.objects.filter(owner=self.owner, retired_at=None).count(),
            **facts,
        }
        return show(self.request, "notice_settings.html", context, status=status)

    def change(self) -> None:
        sent = self.request.POST
        told = sent.getlist("kinds")
        body = {
            "email_on": bool(sent.get("email_on")),
            "email": sent.get("email", "").strip(),
            "muted": [kind for kind, _words in KINDS if kind not in told],
            "digest_over": sent.get("digest_over", ""),
        }
        wanted = settings_of(self.owner.pk)
        given = NoticeSettingsSerializer(wanted, data=body, partial=True)
        given.is_valid(raise_exception=True)
        addresses.change(self.owner, given.validated_data)
        messages.success(self.request, _("The settings are stored."))

    def send_code(self) -> None:
        addresses.send_code(self.owner)
        messages.success(self.request, _("Another code is mailed."))

    def confirm(self) -> None:
        given = CodeSerializer().run_validation({"code": self.request.POST.get("code", "").strip()})
        addresses.confirm(self.owner, given["code"])
        messages.success(self.request, _("The address is confirmed."))

    def test(self) -> None:
        count(NoticeTestThrottle(), self.request, self)
        with FormKey(self.request):
            notice = raise_test(self.owner)
            audit.note(self.owner, "notices.tested", f"notice:{notice.pk}")
        messages.success(
            self.request, _("A test is on its way. The list of notices has its result.")
        )


class Webhooks(SetupPage):
    name = "webhooks"
    template = "webhooks.html"
    actions = ("change", "enable", "disable", "rotate", "delete")
    keeps = ("name", "kinds", "typed")

    def rows(self) -> QuerySet[Any]:
        return Webhook.objects.filter(owner=self.owner, retired_at=None)

    def facts(self) -> dict[str, Any]:
        chosen = self.request.POST.getlist("kinds")
        return {"kinds": KINDS, "chosen": chosen or [kind for kind, _words in KINDS]}

    def body(self) -> dict[str, Any]:
        """Return the fields that were typed. An empty URL is left out, because no page shows it."""
        sent = self.request.POST
        texts = {name: text for name in ("name", "url") if (text := sent.get(name, "").strip())}
        kinds = sent.getlist("kinds")
        if not kinds:  # the API reads an empty list as every kind
            raise errors.Invalid(
                _("Tick at least one kind. To stop the posts, disable the webhook."), field="kinds"
            )
        return texts | {"kinds": [] if len(kinds) == len(KINDS) else kinds}

    @sensitive_variables()
    def create(self) -> HttpResponse:
        """Show the page with the secret, this once."""
        given = WebhookSerializer(data={"url": ""} | self.body())
        given.is_valid(raise_exception=True)
        row, secret = webhooks.create_webhook(self.owner, given.validated_data)
        return self.with_secret(row, secret)

    def with_secret(self, row: Webhook, secret: str) -> HttpResponse:
        response = self.page({}, new_hook=row, secret=secret)
        response["Cache-Control"] = "no-store"
        return response

    def do_change(self, row: Webhook) -> None:
        given = WebhookSerializer(row, data=self.body(), partial=True)
        given.is_valid(raise_exception=True)
        webhooks.update_webhook(row, given.validated_data)
        self.done(_("%(name)s is changed.") % {"name": row.name})

    def do_enable(self, row: Webhook) -> None:
        webhooks.update_webhook(row, {"enabled": True})
        self.done(_("Notices are posted to %(name)s again.") % {"name": row.name})

    def do_disable(self, row: Webhook) -> None:
        webhooks.update_webhook(row, {"enabled": False})
        self.done(_("Nothing is posted to %(name)s any more.") % {"name": row.name})

    @sensitive_variables()
    def do_rotate(self, row: Webhook) -> HttpResponse:
        return self.with_secret(row, webhooks.rotate_secret(row))

    def do_delete(self, row: Webhook) -> None:
        webhooks.retire_webhook(row)
        self.done(_("%(name)s is deleted.") % {"name": row.name})
