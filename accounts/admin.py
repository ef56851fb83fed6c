from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm

from accounts.models import ApiKey, AuditEvent, User
from certctrl.admin import ReadOnlyAdmin

admin.site.unregister(Group)  # permissions are the owner's, not a group's


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[misc,type-arg]
    change_password_form = AdminPasswordChangeForm
    list_display = ("email", "name", "kind", "is_active", "is_staff", "date_joined")
    list_filter = ("kind", "is_active", "is_staff")
    search_fields = ("email", "name")
    ordering = ("email",)
    fieldsets = (
        (None, {"fields": ("email", "password", "name", "kind", "country_of_residence")}),
        ("May", {"fields": ("is_active", "is_staff", "is_superuser")}),
        ("Times", {"fields": ("last_login", "date_joined")}),
    )
    add_fieldsets = ((None, {"classes": ("wide",), "fields": ("email", "password1", "password2")}),)
    readonly_fields = ("last_login", "date_joined")


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnlyAdmin):
    list_display = ("name", "prefix", "owner", "expires_at", "revoked_at", "last_used_at")
    search_fields = ("name", "prefix", "owner__email")
    exclude = ("digest",)
    list_select_related = ("owner",)


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    list_display = ("at", "owner", "actor", "action", "object", "ip")
    list_filter = ("action",)
    search_fields = ("owner__email", "actor", "action", "object")
    list_select_related = ("owner",)
