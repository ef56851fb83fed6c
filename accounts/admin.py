from typing import Any, cast

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import UserChangeForm
from django.contrib.auth.models import Group
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm

from accounts import audit, quotas
from accounts.models import ApiKey, AuditEvent, SavedView, User
from certctrl.admin import ReadOnlyAdmin

admin.site.unregister(Group)  # permissions come from the owner, not from groups


class UserForm(UserChangeForm):  # type: ignore[type-arg]
    def clean_quotas(self) -> Any:
        return self.cleaned_data["quotas"] or {}  # the form reads an empty field as None


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[misc,type-arg]
    form = UserForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("email", "name", "kind", "is_active", "is_staff", "date_joined")
    list_filter = ("kind", "is_active", "is_staff")
    search_fields = ("email", "name")
    ordering = ("email",)
    fieldsets = (
        (
            None,
            {"fields": ("email", "password", "name", "kind", "country_of_residence", "language")},
        ),
        ("May", {"fields": ("is_active", "is_staff", "is_superuser")}),
        ("Quotas", {"fields": ("quotas", "usage")}),
        ("Times", {"fields": ("last_login", "date_joined")}),
    )
    add_fieldsets = ((None, {"classes": ("wide",), "fields": ("email", "password1", "password2")}),)
    readonly_fields = ("last_login", "date_joined", "usage")

    @admin.display(description="used")
    def usage(self, user: User) -> str:
        """Return the used number and the limit of each quota, as text for the admin."""
        limits = [(row["name"], row["used"], row["limit"]) for row in quotas.usage(user)]
        return ", ".join(
            f"{name}: {used} of {'any' if most is None else most}" for name, used, most in limits
        )

    def log_addition(self, request: HttpRequest, obj: User, message: Any) -> Any:
        audit.note(staff(request), "user.created", f"user:{obj.pk}", email=obj.email)
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: User, message: Any) -> Any:
        may = {
            name: getattr(obj, name) for name in ("is_active", "is_staff", "is_superuser", "quotas")
        }
        audit.note(obj, "user.changed", f"user:{obj.pk}", changed=changed_fields(message), **may)
        return super().log_change(request, obj, message)

    def log_deletions(self, request: HttpRequest, queryset: QuerySet[User]) -> Any:
        for each in queryset:
            audit.note(staff(request), "user.deleted", f"user:{each.pk}", email=each.email)
        return super().log_deletions(request, queryset)


def staff(request: HttpRequest) -> User:
    return cast("User", request.user)


def changed_fields(message: Any) -> list[str]:
    """Return the names of the changed fields from the admin's message about a change.

    The message is a list of {"changed": {"fields": [...]}}, or a sentence.
    """
    parts = message if isinstance(message, list) else [{"changed": {"fields": [str(message)]}}]
    return [field for part in parts for field in part.get("changed", {}).get("fields", [])]


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnlyAdmin):
    list_display = ("name", "prefix", "owner", "expires_at", "revoked_at", "last_used_at")
    search_fields = ("name", "prefix", "owner__email")
    exclude = ("digest",)
    list_select_related = ("owner",)


@admin.register(SavedView)
class SavedViewAdmin(ReadOnlyAdmin):
    list_display = ("name", "owner", "query", "created_at")
    search_fields = ("name", "owner__email")
    list_select_related = ("owner",)


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    list_display = ("at", "owner", "actor", "action", "object", "ip", "sealed")
    readonly_fields = ("at", "sealed", "previous_hash", "hash")
    search_fields = ("owner__email", "actor", "action", "object")
    list_select_related = ("owner",)

    @admin.display(description="sealed as")
    def sealed(self, event: AuditEvent) -> str:
        """Return the event's place in the chain, or say that it has none yet."""
        return "not sealed yet" if event.place is None else f"event {event.place}"
