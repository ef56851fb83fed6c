from collections.abc import Mapping
from typing import Any, NoReturn, cast

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import UserChangeForm
from django.contrib.auth.models import Group
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy, ngettext
from unfold.admin import checkbox
from unfold.forms import AdminPasswordChangeForm

from accounts import audit, quotas, services, sessions
from accounts.models import ApiKey, AuditEvent, SavedView, Session, User
from certctrl import admin as paging
from certctrl.admin import ManyRows, ReadOnlyAdmin
from certctrl.errors import Conflict
from certctrl.sentences import sentence as _

admin.site.unregister(Group)  # permissions come from the owner, not from groups


class UserForm(UserChangeForm):  # type: ignore[type-arg]
    def clean_quotas(self) -> Any:
        return self.cleaned_data["quotas"] or {}  # the form reads an empty field as None


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ManyRows):  # type: ignore[misc,type-arg]
    form = UserForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("email", "name", "kind", "is_active", "is_staff", "date_joined")
    list_filter = ("kind", "is_active", "is_staff")
    search_fields = ("email", "name")
    ordering = ("-pk",)
    indexed_search = ("email",)
    actions = ("lock_out", "let_in", "end_sessions")
    fieldsets = (
        (
            None,
            {"fields": ("email", "password", "name", "kind", "country_of_residence", "language")},
        ),
        (gettext_lazy("Role"), {"fields": ("is_active", "is_staff", "is_superuser")}),
        (gettext_lazy("Quotas"), {"fields": ("quotas", "usage")}),
        (gettext_lazy("Rows"), {"fields": ("neighbours",)}),
        (gettext_lazy("Times"), {"fields": ("last_login", "date_joined")}),
    )
    add_fieldsets = ((None, {"classes": ("wide",), "fields": ("email", "password1", "password2")}),)
    readonly_fields = ("last_login", "date_joined", "usage")

    @admin.display(description=gettext_lazy("used"))
    def usage(self, user: User) -> str:
        """Return the used number and the limit of each quota, as text for the admin.

        The library's template asks three times. The rows are counted once.
        """
        if "shown_usage" not in user.__dict__:
            user.__dict__["shown_usage"] = ", ".join(
                str(shown_quota(row)) for row in quotas.usage(user, paging.MOST_COUNTED)
            )
        return str(user.__dict__["shown_usage"])

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Return the actions without that which deletes. It would read all that users own."""
        return {
            name: found
            for name, found in super().get_actions(request).items()
            if name != "delete_selected"
        }

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """Return whether the user may be deleted. One with a history is locked out instead."""
        has_history = bool(obj and obj.audit_events.exists())
        return not has_history and bool(super().has_delete_permission(request, obj))

    @admin.action(description=gettext_lazy("Lock out"), permissions=["act"])
    def lock_out(self, request: HttpRequest, chosen: QuerySet[User]) -> HttpResponse | None:
        will = _(
            "The sessions of these users end. Their sign-ins, API keys and devices are refused,"
            " until they are let in again. Renewals go on."
        )
        if asks := self.confirmed(request, chosen, "lock_out", will):
            return asks

        def act(user: User) -> None:
            if user.pk == staff(request).pk:
                raise Conflict(_("You cannot lock yourself out. Ask another member of the staff."))
            services.lock_out(user)

        def said(number: int) -> str:
            return ngettext(
                "%(number)d user is locked out.", "%(number)d users are locked out.", number
            ) % {"number": number}

        self.act_on_each(request, chosen, act, said)
        return None

    @admin.action(description=gettext_lazy("Let in"), permissions=["act"])
    def let_in(self, request: HttpRequest, chosen: QuerySet[User]) -> None:
        def said(number: int) -> str:
            return ngettext(
                "%(number)d user may sign in again.", "%(number)d users may sign in again.", number
            ) % {"number": number}

        self.act_on_each(request, chosen, services.let_in, said)

    @admin.action(description=gettext_lazy("End all sessions"), permissions=["act"])
    def end_sessions(self, request: HttpRequest, chosen: QuerySet[User]) -> None:
        def act(user: User) -> None:
            if not sessions.end_all(user):
                raise Conflict(_("%(email)s has no session.", email=user.email))

        def said(number: int) -> str:
            return ngettext(
                "All sessions of %(number)d user have ended.",
                "All sessions of %(number)d users have ended.",
                number,
            ) % {"number": number}

        self.act_on_each(request, chosen, act, said)

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


def shown_quota(row: Mapping[str, Any]) -> str:
    return _(
        "%(name)s: %(used)s of %(limit)s",
        name=row["name"],
        used=f"{row['used']}+" if row["used"] == paging.MOST_COUNTED else row["used"],
        limit=_("any") if row["limit"] is None else row["limit"],
    )


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
    actions = ("revoke",)

    @admin.action(description=gettext_lazy("Revoke"), permissions=["act"])
    def revoke(self, request: HttpRequest, chosen: QuerySet[ApiKey]) -> HttpResponse | None:
        will = _("These API keys are refused from now on. This cannot be undone.")
        if asks := self.confirmed(request, chosen, "revoke", will):
            return asks

        def act(key: ApiKey) -> None:
            if not services.revoke_api_key(key):
                raise Conflict(_("The API key %(key)s is revoked already.", key=key))

        def said(number: int) -> str:
            return ngettext(
                "%(number)d API key is revoked.", "%(number)d API keys are revoked.", number
            ) % {"number": number}

        self.act_on_each(request, chosen.select_related("owner"), act, said)
        return None


@admin.register(Session)
class SessionAdmin(ReadOnlyAdmin):
    """The list alone. The primary key is a hash of the session's id, and no page shows it."""

    list_display = ("public_id", "user", "ip", "agent", "seen_at", "expire_date")
    list_display_links = None
    search_fields = ("user__email", "ip", "agent")
    indexed_search = ("user__email",)
    ordering = ("-expire_date",)
    age = "expire_date"
    list_select_related = ("user",)
    actions = ("end",)

    def get_object(self, request: HttpRequest, object_id: str, from_field: Any = None) -> None:
        """Return None, so that no row has a page."""
        return

    def _get_obj_does_not_exist_redirect(self, request: HttpRequest, *args: Any) -> NoReturn:
        """Raise Http404. Django would quote the key in a message."""
        raise Http404

    @admin.display(description=ReadOnlyAdmin.action_checkbox.short_description)
    def action_checkbox(self, obj: Session) -> str:
        return str(checkbox.render(ACTION_CHECKBOX_NAME, obj.public_id))

    @admin.action(description=gettext_lazy("End"), permissions=["act"])
    def end(self, request: HttpRequest, chosen: QuerySet[Session]) -> None:
        ids = request.POST.getlist(ACTION_CHECKBOX_NAME)

        def act(public_id: str) -> None:
            found = Session.objects.filter(session_key__startswith=public_id)
            session = found.select_related("user").first()
            if not session or not session.user:
                raise Conflict(_("The session %(id)s has ended, or has no user.", id=public_id))
            sessions.end(session.user, public_id)

        def said(number: int) -> str:
            return ngettext(
                "%(number)d session has ended.", "%(number)d sessions have ended.", number
            ) % {"number": number}

        self.act_on_each(request, ids, act, said)


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

    @admin.display(description=gettext_lazy("sealed as"))
    def sealed(self, event: AuditEvent) -> str:
        """Return the event's place in the chain, or say that it has none yet."""
        if event.place is None:
            return _("not sealed yet")
        return _("event %(place)d", place=event.place)
