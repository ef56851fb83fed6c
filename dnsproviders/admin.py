from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy, ngettext

from accounts import audit
from certctrl.admin import OpenFilter, ReadOnlyAdmin
from certctrl.errors import Conflict
from certctrl.sentences import sentence as _
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
    list_filter = (OpenFilter,)
    search_fields = ("name", "value", "credential__name")
    indexed_search = ("name",)
    list_select_related = ("credential",)
    actions = ("mark_removed_by_hand",)

    @admin.action(description=gettext_lazy("Mark as removed by hand"), permissions=["act"])
    def mark_removed_by_hand(
        self, request: HttpRequest, chosen: QuerySet[TxtRecord]
    ) -> HttpResponse | None:
        will = _(
            "This server takes these records for removed, and does not remove them any more. Make"
            " sure that they are gone from their zones. This cannot be undone."
        )
        if asks := self.confirmed(request, chosen, "mark_removed_by_hand", will):
            return asks

        def act(record: TxtRecord) -> None:
            if not TxtRecord.objects.in_the_zone().filter(pk=record.pk).exists():
                raise Conflict(_("%(record)s is not in its zone.", record=record))
            try:
                records.mark_removed_by_hand(record)
            except Wait:
                raise Conflict(
                    _("A cleanup is working on %(record)s. Try again.", record=record)
                ) from None
            except LostTurn:
                raise Conflict(
                    _(
                        "%(record)s was not marked, because a cleanup has started. Try again.",
                        record=record,
                    )
                ) from None
            audit.note(record.credential.owner, "record.removed_by_hand", str(record))

        def said(number: int) -> str:
            return ngettext(
                "%(number)d record is marked as removed.",
                "%(number)d records are marked as removed.",
                number,
            ) % {"number": number}

        self.act_on_each(request, chosen.select_related("credential__owner"), act, said)
        return None


@admin.register(ApiBucket)
class ApiBucketAdmin(ReadOnlyAdmin):
    list_display = ("key", "full_at")
    search_fields = ("key",)
