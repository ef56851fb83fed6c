"""Admin pages of certificates, attempts, rate limits and drills."""

from typing import cast

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import TabularInline

from accounts import audit
from accounts.models import User
from certctrl.admin import ReadOnlyAdmin
from issuance import drills, services
from issuance.models import (
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
)


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
    list_filter = ("key_policy", "auto_renew", ("retired_at", admin.EmptyFieldListFilter))
    search_fields = ("domain", "owner__email", "public_id")
    indexed_search = ("domain__startswith", "public_id")
    list_select_related = ("owner", "account", "current")
    actions = ("renew", "revoke")

    @admin.action(description="Renew now")
    def renew(self, request: HttpRequest, chosen: QuerySet[Certificate]) -> None:
        def act(certificate: Certificate) -> str:
            services.issue(certificate)
            return f"{certificate.domain}: an attempt has begun."

        self.act_on_each(request, chosen.select_related("owner", "account"), act)

    @admin.action(description="Revoke the current version")
    def revoke(self, request: HttpRequest, chosen: QuerySet[Certificate]) -> None:
        who = audit.actor_of(request), audit.ip_of(request)

        def act(certificate: Certificate) -> str:
            services.revoke(certificate, 0, *who)
            return f"{certificate.domain}: the revocation will be sent."

        self.act_on_each(request, chosen.select_related("owner", "account"), act)


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
    actions = ("start_drill",)

    @admin.action(description="Start a drill: replace everything of this issuer")
    def start_drill(self, request: HttpRequest, chosen: QuerySet[CertificateVersion]) -> None:
        by = cast("User", request.user)
        issuers = sorted(set(chosen.values_list("issuer", flat=True)))

        def act(issuer: str) -> str:
            drill = drills.start(by, issuer, None, "", str(by), audit.ip_of(request))
            return f"The drill of {issuer} has started, with {drill.total} certificates."

        self.act_on_each(request, issuers, act)


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
    list_filter = ("state", "reason", "failure", "proves")
    search_fields = ("certificate__domain", "order_url", "certificate__owner__email", "error_code")
    indexed_search = ("certificate__domain__startswith",)
    exclude = ("key", "csr_pem")
    list_select_related = ("certificate",)
    inlines = (EventInline,)
    actions = ("retry", "cancel")

    @admin.action(description="Retry now")
    def retry(self, request: HttpRequest, chosen: QuerySet[Issuance]) -> None:
        """Retry an open attempt at once.

        Start a new attempt after one that failed or was canceled.
        """

        def act(issuance: Issuance) -> str:
            services.retry_attempt(issuance)
            return self._noted(issuance, "retried")

        self.act_on_each(request, self._with_owners(chosen), act)

    @admin.action(description="Cancel")
    def cancel(self, request: HttpRequest, chosen: QuerySet[Issuance]) -> None:
        def act(issuance: Issuance) -> str:
            services.cancel_attempt(issuance)
            return self._noted(issuance, "canceled")

        self.act_on_each(request, self._with_owners(chosen), act)

    def _with_owners(self, chosen: QuerySet[Issuance]) -> QuerySet[Issuance]:
        return chosen.select_related("certificate__owner", "certificate__account")

    def _noted(self, issuance: Issuance, done: str) -> str:
        certificate = issuance.certificate
        audit.note(certificate.owner, f"issuance.{done}", certificate.domain)
        return f"{certificate.domain}: {done}."


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


@admin.register(RequestKey)
class RequestKeyAdmin(ReadOnlyAdmin):
    list_display = ("key", "owner", "certificate", "created_at")
    search_fields = ("key", "owner__email")
    list_select_related = ("owner", "certificate")


@admin.register(RenewalInfo)
class RenewalInfoAdmin(ReadOnlyAdmin):
    list_display = ("version", "window_start", "window_end", "checked_at", "wake_at", "error_what")
    search_fields = ("version__certificate__domain", "version__serial")
    indexed_search = ("version__certificate__domain__startswith", "version__serial")
    list_select_related = ("version",)


@admin.register(Probe)
class ProbeAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "certificate", "sni", "serial", "probed_at", "wake_at", "error_what")
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
    search_fields = ("bucket__label", "bucket__subject")
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


@admin.register(Deployment)
class DeploymentAdmin(ReadOnlyAdmin):
    list_display = ("certificate", "device", "wanted", "served_serial", "failure", "wake_at")
    list_filter = ("by_tag", "failure")
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
