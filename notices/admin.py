from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy, ngettext

from certctrl.admin import OpenFilter, ReadOnlyAdmin
from certctrl.errors import Conflict
from certctrl.sentences import sentence as _
from notices import delivery, webhooks
from notices.models import Delivery, Notice, NoticeSettings, Webhook


@admin.register(Notice)
class NoticeAdmin(ReadOnlyAdmin):
    list_display = ("raised_at", "kind", "subject", "owner")
    list_filter = ("kind",)
    search_fields = ("subject", "owner__email")
    list_select_related = ("owner",)
    actions = ("send_again",)

    @admin.action(description=gettext_lazy("Send again"), permissions=["act"])
    def send_again(self, request: HttpRequest, chosen: QuerySet[Notice]) -> None:
        def said(number: int) -> str:
            return ngettext(
                "%(number)d notice is sent again.", "%(number)d notices are sent again.", number
            ) % {"number": number}

        self.act_on_each(request, chosen, delivery.send_notice_again, said)


@admin.register(Webhook)
class WebhookAdmin(ReadOnlyAdmin):
    list_display = ("name", "host", "owner", "disabled_at", "last_error", "retired_at")
    search_fields = ("name", "owner__email")
    exclude = ("secret", "address")
    readonly_fields = ("host",)
    list_select_related = ("owner",)
    actions = ("disable", "enable")

    @admin.action(description=gettext_lazy("Disable"), permissions=["act"])
    def disable(self, request: HttpRequest, chosen: QuerySet[Webhook]) -> None:
        def act(webhook: Webhook) -> None:
            if not webhook.enabled:
                raise Conflict(_("The webhook %(name)s is disabled already.", name=webhook))
            webhooks.update_webhook(webhook, {"enabled": False})

        def said(number: int) -> str:
            return ngettext(
                "%(number)d webhook is disabled.", "%(number)d webhooks are disabled.", number
            ) % {"number": number}

        self.act_on_each(request, chosen.select_related("owner"), act, said)

    @admin.action(description=gettext_lazy("Enable"), permissions=["act"])
    def enable(self, request: HttpRequest, chosen: QuerySet[Webhook]) -> None:
        def act(webhook: Webhook) -> None:
            if webhook.enabled:
                raise Conflict(_("The webhook %(name)s is enabled already.", name=webhook))
            webhooks.update_webhook(webhook, {"enabled": True})

        def said(number: int) -> str:
            return ngettext(
                "%(number)d webhook is enabled.", "%(number)d webhooks are enabled.", number
            ) % {"number": number}

        self.act_on_each(request, chosen.select_related("owner"), act, said)


@admin.register(NoticeSettings)
class NoticeSettingsAdmin(ReadOnlyAdmin):
    list_display = ("owner", "email_on", "email", "confirmed_email", "muted", "digest_over")
    exclude = ("code_seed",)
    search_fields = ("owner__email", "email")
    list_select_related = ("owner",)


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    list_display = (
        "notice",
        "channel",
        "webhook",
        "owner",
        "state",
        "wake_at",
        "sent_at",
        "error_what",
    )
    list_filter = (OpenFilter, "channel", ("given_up_at", admin.EmptyFieldListFilter))
    search_fields = ("owner__email", "webhook__name", "error_what")
    list_select_related = ("notice", "owner", "webhook")
    actions = ("send_again",)

    @admin.action(description=gettext_lazy("Send again"), permissions=["act"])
    def send_again(self, request: HttpRequest, chosen: QuerySet[Delivery]) -> None:
        def said(number: int) -> str:
            return ngettext(
                "%(number)d delivery is sent again.",
                "%(number)d deliveries are sent again.",
                number,
            ) % {"number": number}

        self.act_on_each(request, chosen.select_related("owner"), delivery.send_again, said)
