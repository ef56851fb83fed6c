"""Admin pages of accounts, private CAs and exchanges."""

from django.contrib import admin

from authorities.models import AcmeAccount, Exchange, PrivateCA
from certctrl.admin import ReadOnlyAdmin


@admin.register(PrivateCA)
class PrivateCAAdmin(ReadOnlyAdmin):
    list_display = ("name", "owner", "algorithm", "key_size", "status", "not_after")
    search_fields = ("name", "owner__email", "serial_number")
    exclude = ("key",)
    list_select_related = ("owner",)


@admin.register(AcmeAccount)
class AcmeAccountAdmin(ReadOnlyAdmin):
    list_display = ("name", "ca_provider", "owner", "status", "error_what", "created_at")
    list_filter = ("ca_provider", "status")
    search_fields = ("name", "email", "owner__email", "url")
    exclude = ("key", "eab")
    list_select_related = ("owner",)


@admin.register(Exchange)
class ExchangeAdmin(ReadOnlyAdmin):
    list_display = ("at", "account", "attempt_id", "step", "method", "url", "status", "took_ms")
    search_fields = ("url", "account__name", "attempt_id")
    list_select_related = ("account",)
