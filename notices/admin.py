from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from certctrl.admin import ReadOnlyAdmin
from notices import delivery
from notices.models import Delivery, Notice, NoticeSettings, Webhook


@admin.register(Notice)
class NoticeAdmin(ReadOnlyAdmin):
    list_display = ("raised_at", "kind", "subject", "owner")
    list_filter = ("kind",)
    search_fields = ("subject", "owner__email")
    list_select_related = ("owner",)


@admin.register(Webhook)
class WebhookAdmin(ReadOnlyAdmin):
    list_display = ("name", "host", "owner", "disabled_at", "last_error", "retired_at")
    search_fields = ("name", "owner__email")
    exclude = ("secret", "address")
    readonly_fields = ("host",)
    list_select_related = ("owner",)


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
    list_filter = ("channel", ("given_up_at", admin.EmptyFieldListFilter))
    search_fields = ("notice__subject", "owner__email", "webhook__name")
    list_select_related = ("notice", "owner", "webhook")
    actions = ("send_again",)

    @admin.action(description="Send again")
    def send_again(self, request: HttpRequest, chosen: QuerySet[Delivery]) -> None:
        def act(each: Delivery) -> str:
            delivery.send_again(each)
            return f"Delivery {each.pk} is sent again."

        self.act_on_each(request, chosen.select_related("owner"), act)
