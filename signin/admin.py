"""Admin pages of second factors, mailed codes and identities at an OpenID provider."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy, ngettext

from certctrl.admin import OpenFilter, ReadOnlyAdmin
from certctrl.sentences import sentence as _
from signin import secondfactor
from signin.models import ExternalIdentity, MailedCode, RecoveryCode, SecondFactor


@admin.register(SecondFactor)
class SecondFactorAdmin(ReadOnlyAdmin):
    list_display = ("user", "confirmed_at", "failures", "next_try_at")
    search_fields = ("user__email",)
    indexed_search = ("user__email",)
    list_select_related = ("user",)
    actions = ("remove",)

    @admin.action(description=gettext_lazy("Remove the second factor"), permissions=["act"])
    def remove(self, request: HttpRequest, chosen: QuerySet[SecondFactor]) -> HttpResponse | None:
        will = _("These users sign in with their passwords alone. They lost app and codes.")
        if asks := self.confirmed(request, chosen, "remove", will):
            return asks

        def act(factor: SecondFactor) -> None:
            secondfactor.remove(factor.user)

        def said(number: int) -> str:
            return ngettext(
                "%(number)d second factor is removed.",
                "%(number)d second factors are removed.",
                number,
            ) % {"number": number}

        self.act_on_each(request, chosen.select_related("user"), act, said)
        return None


@admin.register(RecoveryCode)
class RecoveryCodeAdmin(ReadOnlyAdmin):
    list_display = ("id", "factor", "used_at")
    search_fields = ("factor__user__email",)
    indexed_search = ("factor__user__email",)
    list_select_related = ("factor__user",)


@admin.register(MailedCode)
class MailedCodeAdmin(ReadOnlyAdmin):
    list_display = ("purpose", "email", "network", "created_at", "sent_at", "used_at")
    list_filter = ("purpose", OpenFilter)
    search_fields = ("email", "network")
    indexed_search = ("email", "network")


@admin.register(ExternalIdentity)
class ExternalIdentityAdmin(ReadOnlyAdmin):
    list_display = ("user", "issuer", "subject", "created_at")
    search_fields = ("user__email", "issuer", "subject")
    indexed_search = ("user__email",)
    list_select_related = ("user",)
