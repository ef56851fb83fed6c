"""Admin pages of certificates, attempts, rate limits and drills."""

from datetime import timedelta
from typing import Any, ClassVar, cast

from django import forms
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy, ngettext
from unfold.admin import TabularInline
from unfold.widgets import UnfoldAdminSelectWidget

from accounts import audit
from accounts.models import User
from certctrl.admin import MOST_CHOSEN, OpenFilter, PartFilter, ReadOnlyAdmin
from certctrl.errors import Conflict
from certctrl.sentences import sentence as _
from dnsproviders import registry
from dnsproviders.models import DisabledProvider
from issuance import drills, services
from issuance.models import (
    NOT_SERVED,
    Authorization,
    Certificate,
    CertificateCount,
    CertificateTag,
    CertificateVersion,
    Deployment,
    Drill,
    Issuance,
    IssuanceEvent,
    Label,
    LimitBucket,
    NamePart,
    Probe,
    RenewalInfo,
    RequestKey,
    Reservation,
    ReservedToken,
    TrustedCA,
    open_attempts,
)

# The rows of the index `certificates_by_expiry`.
ENDS_SOON = Q(expires_at__lt=Now() + timedelta(days=7), retired_at=None)


class CertificatePart(PartFilter):
    title = cast("str", gettext_lazy("condition"))
    parts: ClassVar = {
        "you": (gettext_lazy("needs a person"), Q(needs_person=True, retired_at=None)),
        "failing": (gettext_lazy("fails"), Q(failures__gt=0, retired_at=None)),
        "ends": (gettext_lazy("ends within seven days"), ENDS_SOON),
        "held": (gettext_lazy("waits for a rate limit"), Q(lacks__isnull=False)),
        "off": (gettext_lazy("renewal is off"), Q(auto_renew=False, retired_at=None)),
        "deleted": (gettext_lazy("deleted"), Q(retired_at__isnull=False)),
    }


@admin.register(Certificate)
class CertificateAdmin(ReadOnlyAdmin):
    list_display = (
        "domain",
        "owner",
        "account",
        "status",
        "expires_at",
        "renew_at",
        "failures",
        "retired_at",
    )
    list_filter = (CertificatePart, "key_policy")
    search_fields = ("domain", "owner__email", "public_id")
    indexed_search = ("domain__startswith", "public_id", "owner__email")
    list_select_related = ("owner", "account", "current")
    actions = ("renew", "revoke")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Certificate]:
        return super().get_queryset(request).prefetch_related(open_attempts())

    @admin.action(description=gettext_lazy("Renew now"), permissions=["act"])
    def renew(self, request: HttpRequest, chosen: QuerySet[Certificate]) -> None:
        def said(number: int) -> str:
            return ngettext(
                "An attempt of %(number)d certificate has begun.",
                "Attempts of %(number)d certificates have begun.",
                number,
            ) % {"number": number}

        self.act_on_each(request, _with_owners(chosen), services.issue, said)

    @admin.action(description=gettext_lazy("Revoke the current version"), permissions=["act"])
    def revoke(self, request: HttpRequest, chosen: QuerySet[Certificate]) -> HttpResponse | None:
        will = _("The current versions of these certificates are revoked. This cannot be undone.")
        if asks := self.confirmed(request, chosen, "revoke", will):
            return asks
        who = audit.actor_of(request), audit.ip_of(request)

        def act(certificate: Certificate) -> None:
            if certificate.current and certificate.current.revoke_asked_at:
                raise Conflict(
                    _(
                        "The revocation of %(domain)s was asked for already.",
                        domain=certificate.domain,
                    )
                )
            services.revoke(certificate, 0, *who)

        def said(number: int) -> str:
            return ngettext(
                "The revocation of %(number)d certificate will be sent to its CA.",
                "The revocations of %(number)d certificates will be sent to their CAs.",
                number,
            ) % {"number": number}

        self.act_on_each(request, _with_owners(chosen), act, said)
        return None


def _with_owners(chosen: QuerySet[Certificate]) -> QuerySet[Certificate]:
    """Return the certificates of an action, with what the services read."""
    return chosen.select_related("owner", "account", "current").prefetch_related(None)


@admin.register(Label)
class LabelAdmin(ReadOnlyAdmin):
    list_display = ("name", "owner")
    search_fields = ("name", "owner__email")
    list_select_related = ("owner",)


@admin.register(CertificateVersion)
class CertificateVersionAdmin(ReadOnlyAdmin):
    list_display = (
        "certificate",
        "serial",
        "not_before",
        "not_after",
        "revoke_asked_at",
        "revoked_at",
        "revoke_error",
    )
    search_fields = ("certificate__domain", "serial", "fingerprint")
    indexed_search = ("certificate__domain__startswith", "serial")
    exclude = ("key",)
    list_select_related = ("certificate",)
    list_filter = (OpenFilter,)
    actions = ("start_drill",)

    @admin.action(
        description=gettext_lazy("Start a drill: replace everything of this issuer"),
        permissions=["act"],
    )
    def start_drill(
        self, request: HttpRequest, chosen: QuerySet[CertificateVersion]
    ) -> HttpResponse | None:
        will = _(
            "Every certificate in use that the issuers of these versions signed is renewed, as fast"
            " as the rate limits allow. The drill can be stopped."
        )
        if asks := self.confirmed(request, chosen, "start_drill", will):
            return asks
        by = cast("User", request.user)
        started = []

        def act(issuer: str) -> None:
            started.append(drills.start(by, issuer, None, "", str(by), audit.ip_of(request)))

        def said(number: int) -> str:
            total = sum(drill.total for drill in started)
            drills_started = ngettext(
                "%(number)d drill has started", "%(number)d drills have started", number
            ) % {"number": number}
            replaces = ngettext(
                "%(total)d certificate is replaced", "%(total)d certificates are replaced", total
            ) % {"total": total}
            return f"{drills_started}: {replaces}."

        issuers = sorted(set(chosen.order_by().values_list("issuer", flat=True)[:MOST_CHOSEN]))
        self.act_on_each(request, issuers, act, said)
        return None


class EventInline(TabularInline):  # type: ignore[misc]
    model = IssuanceEvent
    fields = ("at", "step", "outcome", "what", "took_ms")
    readonly_fields = fields
    ordering = ("pk",)
    extra = 0
    can_delete = False


@admin.register(Issuance)
class IssuanceAdmin(ReadOnlyAdmin):
    list_display = (
        "certificate",
        "number",
        "reason",
        "state",
        "waits_for",
        "wake_at",
        "error_what",
        "created_at",
    )
    list_filter = (OpenFilter, "state", "reason", "failure", "proves")
    search_fields = ("certificate__domain", "order_url", "certificate__owner__email", "error_code")
    indexed_search = ("certificate__domain__startswith",)
    exclude = ("key", "csr_pem")
    list_select_related = ("certificate",)
    inlines = (EventInline,)
    actions = ("retry", "cancel")

    @admin.action(description=gettext_lazy("Retry now"), permissions=["act"])
    def retry(self, request: HttpRequest, chosen: QuerySet[Issuance]) -> None:
        """Retry an open attempt at once.

        Start a new attempt after one that failed or was canceled.
        """

        def act(issuance: Issuance) -> None:
            services.retry_attempt(issuance)
            self._note(issuance, "retried")

        def said(number: int) -> str:
            return ngettext(
                "%(number)d attempt is tried again now.",
                "%(number)d attempts are tried again now.",
                number,
            ) % {"number": number}

        self.act_on_each(request, self._with_owners(chosen), act, said)

    @admin.action(description=gettext_lazy("Cancel"), permissions=["act"])
    def cancel(self, request: HttpRequest, chosen: QuerySet[Issuance]) -> None:
        def act(issuance: Issuance) -> None:
            services.cancel_attempt(issuance)
            self._note(issuance, "canceled")

        def said(number: int) -> str:
            return ngettext(
                "%(number)d attempt is canceled.", "%(number)d attempts are canceled.", number
            ) % {"number": number}

        self.act_on_each(request, self._with_owners(chosen), act, said)

    def _with_owners(self, chosen: QuerySet[Issuance]) -> QuerySet[Issuance]:
        return chosen.select_related("certificate__owner", "certificate__account")

    def _note(self, issuance: Issuance, done: str) -> None:
        certificate = issuance.certificate
        audit.note(certificate.owner, f"issuance.{done}", certificate.domain)


@admin.register(IssuanceEvent)
class IssuanceEventAdmin(ReadOnlyAdmin):
    list_display = ("at", "issuance", "step", "outcome", "what", "took_ms")
    list_filter = ("outcome",)
    search_fields = ("issuance__certificate__domain", "what")
    indexed_search = ("issuance__certificate__domain__startswith",)
    list_select_related = ("issuance",)


@admin.register(Authorization)
class AuthorizationAdmin(ReadOnlyAdmin):
    list_display = ("identifier", "wildcard", "issuance", "status", "answered_at")
    list_filter = ("status",)
    search_fields = ("identifier", "url")
    indexed_search = ("issuance__certificate__domain__startswith",)
    list_select_related = ("issuance",)


def provider_names() -> list[tuple[str, str]]:
    return [(each, registry.provider_class(each).name) for each in registry.PROVIDERS]


class DisabledProviderForm(forms.ModelForm):  # type: ignore[type-arg]
    provider = forms.ChoiceField(
        label=gettext_lazy("DNS provider"),
        choices=provider_names,
        widget=UnfoldAdminSelectWidget,
        help_text=gettext_lazy(
            "Nobody can make a credential for it, or start an attempt that needs it. Open attempts"
            " wait until it is enabled again. TXT records are still removed."
        ),
    )


@admin.register(DisabledProvider)
class DisabledProviderAdmin(ReadOnlyAdmin):
    """A provider is disabled by a new row, and enabled by an action."""

    form = DisabledProviderForm
    list_display = ("provider", "disabled_at", "by", "why")
    readonly_fields = ("disabled_at", "by")
    search_fields = ("provider", "why")
    list_select_related = ("by",)
    actions = ("enable",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.has_act_permission(request)

    def get_fields(
        self, request: HttpRequest, obj: DisabledProvider | None = None
    ) -> tuple[str, ...]:
        return self.list_display if obj else ("provider", "why")

    def save_model(
        self, request: HttpRequest, obj: DisabledProvider, form: Any, change: bool
    ) -> None:
        obj.pk = services.disable_provider(obj.provider, cast("User", request.user), obj.why).pk

    @admin.action(description=gettext_lazy("Enable"), permissions=["act"])
    def enable(self, request: HttpRequest, chosen: QuerySet[DisabledProvider]) -> None:
        def act(row: DisabledProvider) -> None:
            services.enable_provider(row, cast("User", request.user))

        def said(number: int) -> str:
            return ngettext(
                "%(number)d DNS provider is enabled.",
                "%(number)d DNS providers are enabled.",
                number,
            ) % {"number": number}

        self.act_on_each(request, chosen, act, said)


@admin.register(RequestKey)
class RequestKeyAdmin(ReadOnlyAdmin):
    list_display = ("key", "owner", "certificate", "created_at")
    search_fields = ("key", "owner__email")
    list_select_related = ("owner", "certificate")


@admin.register(RenewalInfo)
class RenewalInfoAdmin(ReadOnlyAdmin):
    list_display = ("version", "window_start", "window_end", "checked_at", "wake_at", "error_what")
    list_filter = (OpenFilter,)
    search_fields = ("version__certificate__domain", "version__serial")
    indexed_search = ("version__certificate__domain__startswith", "version__serial")
    list_select_related = ("version",)


@admin.register(Probe)
class ProbeAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "certificate", "sni", "serial", "probed_at", "wake_at", "error_what")
    list_filter = (OpenFilter,)
    search_fields = ("address", "certificate__domain", "serial")
    indexed_search = ("certificate__domain__startswith",)
    list_select_related = ("certificate",)


@admin.register(LimitBucket)
class LimitBucketAdmin(ReadOnlyAdmin):
    list_display = ("kind", "label", "ca", "level", "at")
    list_filter = ("kind",)
    search_fields = ("label", "subject", "ca")


@admin.register(Reservation)
class ReservationAdmin(ReadOnlyAdmin):
    list_display = ("issuance", "owner", "state", "is_renewal", "lacks", "asked_at", "sent_at")
    list_filter = ("state",)
    search_fields = ("issuance__certificate__domain", "owner__email")
    indexed_search = ("issuance__certificate__domain__startswith",)
    list_select_related = ("issuance", "owner")


@admin.register(ReservedToken)
class ReservedTokenAdmin(ReadOnlyAdmin):
    list_display = ("reservation", "bucket", "cost")
    search_fields = ("reservation__issuance__certificate__domain",)
    indexed_search = ("reservation__issuance__certificate__domain__startswith",)
    list_select_related = ("reservation", "bucket")


@admin.register(Drill)
class DrillAdmin(ReadOnlyAdmin):
    list_display = (
        "id",
        "issuer",
        "account",
        "by",
        "total",
        "created_at",
        "ended_at",
        "stopped_at",
    )
    search_fields = ("issuer", "account__name", "why")
    list_select_related = ("account", "by")
    actions = ("stop", "resume")

    @admin.action(description=gettext_lazy("Stop"), permissions=["act"])
    def stop(self, request: HttpRequest, chosen: QuerySet[Drill]) -> None:
        def act(drill: Drill) -> None:
            if drill.stopped_at:
                raise Conflict(_("Drill %(id)s is stopped already.", id=drill.pk))
            drills.stop(drill, *self._who(request))

        def said(number: int) -> str:
            return ngettext(
                "%(number)d drill is stopped.", "%(number)d drills are stopped.", number
            ) % {"number": number}

        self.act_on_each(request, chosen.select_related("account"), act, said)

    @admin.action(description=gettext_lazy("Resume"), permissions=["act"])
    def resume(self, request: HttpRequest, chosen: QuerySet[Drill]) -> None:
        def act(drill: Drill) -> None:
            if not drill.stopped_at and not drill.ended_at:
                raise Conflict(_("Drill %(id)s is running.", id=drill.pk))
            drills.resume(drill, *self._who(request))

        def said(number: int) -> str:
            return ngettext(
                "%(number)d drill is resumed.", "%(number)d drills are resumed.", number
            ) % {"number": number}

        self.act_on_each(request, chosen.select_related("account"), act, said)

    def _who(self, request: HttpRequest) -> tuple[User, str, str | None]:
        return cast("User", request.user), audit.actor_of(request), audit.ip_of(request)


class DeploymentPart(PartFilter):
    title = cast("str", gettext_lazy("condition"))
    parts: ClassVar = {
        "behind": (gettext_lazy("serves something else"), NOT_SERVED),
        "open": (gettext_lazy("a worker acts on it later"), Q(wake_at__isnull=False)),
    }


@admin.register(Deployment)
class DeploymentAdmin(ReadOnlyAdmin):
    list_display = ("certificate", "device", "wanted", "served_serial", "failure", "wake_at")
    list_filter = (DeploymentPart, "by_tag", "failure")
    search_fields = ("certificate__domain", "device__name", "device__public_id")
    indexed_search = ("certificate__domain__startswith",)
    list_select_related = ("certificate", "device", "wanted")


@admin.register(CertificateTag)
class CertificateTagAdmin(ReadOnlyAdmin):
    list_display = ("certificate", "tag", "assigned_at")
    search_fields = ("certificate__domain", "tag")
    indexed_search = ("certificate__domain__startswith",)
    list_select_related = ("certificate",)


@admin.register(TrustedCA)
class TrustedCAAdmin(ReadOnlyAdmin):
    list_display = ("private_ca", "device", "assigned_at")
    search_fields = ("private_ca__name", "device__name", "device__public_id")
    list_select_related = ("private_ca", "device")


@admin.register(CertificateCount)
class CertificateCountAdmin(ReadOnlyAdmin):
    list_display = ("owner", "kind", "day", "number", "is_sum")
    list_filter = ("kind",)
    search_fields = ("owner__email",)
    list_select_related = ("owner",)


@admin.register(NamePart)
class NamePartAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "certificate", "owner")
    fields = ("certificate", "owner")
    search_fields = ("certificate__domain",)
    indexed_search = ("certificate__domain__startswith",)
    list_select_related = ("certificate", "owner")
