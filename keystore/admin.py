from django.contrib import admin

from certctrl.admin import ReadOnlyAdmin
from keystore.models import Envelope, KeyWrap, RecipientKey


@admin.register(Envelope)
class EnvelopeAdmin(ReadOnlyAdmin):
    list_display = ("uuid", "owner", "purpose", "policy", "created_at")
    list_filter = ("policy",)
    search_fields = ("uuid", "owner__email")
    fields = ("uuid", "owner", "purpose", "policy", "created_at")
    list_select_related = ("owner",)


@admin.register(KeyWrap)
class KeyWrapAdmin(ReadOnlyAdmin):
    list_display = ("envelope", "master_key_id", "recipient_key", "created_at")
    search_fields = ("envelope__uuid", "master_key_id")
    fields = ("envelope", "master_key_id", "recipient_key", "created_at")
    list_select_related = ("envelope", "recipient_key")


@admin.register(RecipientKey)
class RecipientKeyAdmin(ReadOnlyAdmin):
    list_display = ("id", "owner", "created_at", "retired_at")
    search_fields = ("owner__email",)
    fields = ("owner", "created_at", "retired_at")
    list_select_related = ("owner",)
