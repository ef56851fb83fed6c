from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts import audit
from certctrl.admin import ReadOnlyAdmin
from certctrl.turns import LostTurn, Wait
from dnsproviders import records
from dnsproviders.models import ApiBucket, DnsCredential, TxtRecord


@admin.register(DnsCredential)
class DnsCredentialAdmin(ReadOnlyAdmin):
    list_display = ("name", "provider", "owner", "checked_at", "last_error", "retired_at")
    list_filter = ("provider",)
    search_fields = ("name", "owner__email")
    exclude = ("secret",)
    list_select_related = ("owner",)


@admin.register(TxtRecord)
class TxtRecordAdmin(ReadOnlyAdmin):
    list_display = (
        "name",
        "value",
        "credential",
        "intent_at",
        "presented_at",
        "cleaned_at",
        "left_behind",
    )
    list_filter = (("cleaned_at", admin.EmptyFieldListFilter),)
    search_fields = ("name", "value", "credential__name")
    list_select_related = ("credential",)
    actions = ("mark_removed_by_hand",)

    @admin.action(description="Mark as removed by hand")
    def mark_removed_by_hand(self, request: HttpRequest, chosen: QuerySet[TxtRecord]) -> None:
        for record in chosen.in_the_zone().select_related("credential__owner"):  # type: ignore[attr-defined]
            try:
                records.mark_removed_by_hand(record)
            except Wait:
                self.message_user(
                    request, f"A cleanup is working on {record}. Try again.", messages.WARNING
                )
                continue
            except LostTurn:
                self.message_user(
                    request,
                    f"{record} was not marked, because a cleanup has started. Try again.",
                    messages.WARNING,
                )
                continue
            audit.note(record.credential.owner, "record.removed_by_hand", str(record))
            self.message_user(request, f"{record} is marked as removed.")


@admin.register(ApiBucket)
class ApiBucketAdmin(ReadOnlyAdmin):
    list_display = ("key", "full_at")
    search_fields = ("key",)
