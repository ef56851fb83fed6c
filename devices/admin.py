from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy, ngettext

from certctrl.admin import ReadOnlyAdmin
from certctrl.errors import Conflict
from certctrl.sentences import sentence as _
from devices import services
from devices.models import (
    AgentChallenge,
    Device,
    DeviceCode,
    DeviceSession,
    DeviceTag,
    EnrolmentKey,
    InstallPlan,
    Signal,
)


@admin.register(Device)
class DeviceAdmin(ReadOnlyAdmin):
    list_display = ("name", "public_id", "owner", "status", "app_version", "last_seen_at")
    list_filter = ("status",)
    search_fields = ("name", "public_id", "owner__email")
    list_select_related = ("owner",)
    actions = ("revoke",)

    @admin.action(description=gettext_lazy("Revoke"), permissions=["act"])
    def revoke(self, request: HttpRequest, chosen: QuerySet[Device]) -> HttpResponse | None:
        will = _(
            "These devices and their tokens are refused from now on. They must enrol again to come"
            " back."
        )
        if asks := self.confirmed(request, chosen, "revoke", will):
            return asks

        def act(device: Device) -> None:
            if device.status == Device.Status.REVOKED:
                raise Conflict(_("The device %(name)s is revoked already.", name=device))
            services.revoke_device(device)

        def said(number: int) -> str:
            return ngettext(
                "%(number)d device is revoked.", "%(number)d devices are revoked.", number
            ) % {"number": number}

        self.act_on_each(request, chosen.select_related("owner", "key"), act, said)
        return None


@admin.register(DeviceTag)
class DeviceTagAdmin(ReadOnlyAdmin):
    list_display = ("tag", "device")
    search_fields = ("tag",)
    list_select_related = ("device",)


@admin.register(Signal)
class SignalAdmin(ReadOnlyAdmin):
    list_display = ("type", "device", "seq", "ts_ms")
    search_fields = ("device__name", "device__public_id")
    list_select_related = ("device",)


@admin.register(AgentChallenge)
class AgentChallengeAdmin(ReadOnlyAdmin):
    list_display = ("challenge_id", "device", "kind", "created_at", "acked_at")
    exclude = ("ref",)
    search_fields = ("device__name", "device__public_id")
    list_select_related = ("device",)


@admin.register(DeviceCode)
class DeviceCodeAdmin(ReadOnlyAdmin):
    list_display = ("user_code", "user", "decision", "created_at", "expires_at", "used_by")
    list_filter = ("decision",)
    exclude = ("digest", "registration_digest")
    search_fields = ("user_code", "user__email")
    list_select_related = ("user", "used_by")


@admin.register(DeviceSession)
class DeviceSessionAdmin(ReadOnlyAdmin):
    list_display = ("device", "created_at", "rotated_at", "expires_at", "ended_at")
    exclude = ("family", "seal", "digest", "spent_digest")
    search_fields = ("device__name", "device__public_id")
    list_select_related = ("device",)


@admin.register(EnrolmentKey)
class EnrolmentKeyAdmin(ReadOnlyAdmin):
    list_display = ("api_key", "tag", "uses", "uses_left")
    search_fields = ("api_key__name", "tag")
    list_select_related = ("api_key",)


@admin.register(InstallPlan)
class InstallPlanAdmin(ReadOnlyAdmin):
    list_display = ("device", "version", "updated_by", "change_note", "created_at")
    search_fields = ("device__name", "device__public_id")
    list_select_related = ("device",)
