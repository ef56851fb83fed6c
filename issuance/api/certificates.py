"""Responses about certificates (docs/reference/api.md)."""

import base64
from typing import Any

from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from authorities import pki
from certctrl.api import EpochSeconds
from certctrl.schema import OPTIONAL
from certctrl.sentences import joined
from certctrl.sentences import sentence as _
from issuance import ratelimits
from issuance.api.attempts import ProgressSerializer, progress
from issuance.api.preflight import DelegationSerializer
from issuance.api.rollouts import DeploymentCountsSerializer, counts
from issuance.challenges import delegation
from issuance.models import Certificate, CertificateVersion, Issuance, RenewalInfo
from issuance.renewal import lifetime


class WindowSerializer(serializers.ModelSerializer[RenewalInfo]):
    """The CA's last renewal information (RFC 9773).

    `moment` is the renewal time in the window. `error` says why the last poll failed.
    """

    window_start = EpochSeconds(allow_null=True)
    window_end = EpochSeconds(allow_null=True)
    moment = EpochSeconds(allow_null=True)
    checked_at = EpochSeconds(allow_null=True)
    error = serializers.CharField(source="error_what", read_only=True)

    class Meta:
        model = RenewalInfo
        fields = ("window_start", "window_end", "moment", "explanation_url", "checked_at", "error")
        read_only_fields = fields


class RenewalSerializer(serializers.Serializer[Certificate]):
    renew_at = EpochSeconds(allow_null=True)
    slot_at = serializers.SerializerMethodField(
        help_text="estimated time of the order, while the CA's limits delay it; null in lists"
    )
    ari = serializers.SerializerMethodField(help_text="null until the CA names it")

    def get_slot_at(self, certificate: Certificate) -> int | None:
        in_list = isinstance(self.root, serializers.ListSerializer)
        at = None if in_list else ratelimits.slot_of(certificate)
        return int(at.timestamp()) if at else None

    @extend_schema_field(WindowSerializer(allow_null=True))
    def get_ari(self, certificate: Certificate) -> dict[str, Any] | None:
        info: RenewalInfo | None = getattr(certificate.current, "renewal_info", None)
        was_asked = info and (info.checked_at or info.error_what)
        return dict(WindowSerializer(info).data) if was_asked else None


def note(certificate: Certificate) -> str:
    """Return notes on unexpected effects, as sentences; empty without any."""
    waits = (
        delegation.is_delegated(certificate)
        and not certificate.verified
        and not certificate.current
    )
    told: list[str] = []
    if waits:
        told.append(_("Nothing is issued until every CNAME of `delegation` is set."))
    if certificate.current:
        told.append(_note_on_revocation(certificate.current))
    if certificate.current and (added := certificate.current.added_names):
        told.append(
            _("The CA added names that were not requested: %(added)s.", added=", ".join(added))
        )
    notes = filter(None, [*told, _note_on_key(certificate), *lifetime.notes(certificate)])
    return str(joined(" ", notes))


def _note_on_revocation(version: CertificateVersion) -> str:
    if not version.revoke_asked_at or version.revoked_at:
        return ""
    asked = _("The CA has not revoked it yet. It is asked again.")
    return joined(" ", filter(None, [asked, version.revoke_error]))


def _note_on_key(certificate: Certificate) -> str:
    if certificate.server_decrypt_export or _is_assigned(certificate):
        return ""
    if certificate.key_policy == "DEVICE_REQUIRED":
        return _("Nothing is issued until a device is assigned (DEVICE_REQUIRED).")
    if certificate.key_policy == "MASTER_ONLY":
        return _("Nobody can fetch the key yet. Set server_decrypt_export to true.")
    return _("Nobody can fetch the key yet. Assign a device, or set server_decrypt_export to true.")


def _is_assigned(certificate: Certificate) -> bool:
    """Return whether a device gets the key. Lists have read it for each row."""
    if certificate.key_policy == "MASTER_ONLY":
        return False
    if hasattr(certificate, "is_assigned"):
        return bool(certificate.is_assigned)
    return certificate.current_id is not None and certificate.deployments.exists()


class CertificateSerializer(serializers.ModelSerializer[Certificate]):
    """Metadata of a certificate, in both spellings. The key is never included."""

    acct_id = serializers.IntegerField(source="account_id", read_only=True)
    acme_account_id = serializers.IntegerField(source="account_id", read_only=True)
    dns_provider_id = serializers.IntegerField(
        source="credential_id", read_only=True, allow_null=True
    )
    fallback_account_id = serializers.IntegerField(read_only=True, allow_null=True)
    verify_device_id = serializers.IntegerField(read_only=True, allow_null=True)
    domain_name = serializers.CharField(source="domain", read_only=True)
    key_dist_policy = serializers.CharField(source="key_policy", read_only=True)
    self_signed = serializers.BooleanField(source="account.is_private", read_only=True)
    created_at = EpochSeconds()
    updated_at = EpochSeconds()
    renew_at = EpochSeconds(allow_null=True)
    renewal = RenewalSerializer(source="*", read_only=True)
    serial_number = serializers.SerializerMethodField()
    not_before = serializers.SerializerMethodField()
    not_after = serializers.SerializerMethodField()
    fingerprint_sha256 = serializers.SerializerMethodField()
    revoke_asked_at = EpochSeconds(source="current.revoke_asked_at", allow_null=True)
    revoked_at = EpochSeconds(source="current.revoked_at", allow_null=True)
    issuance = serializers.SerializerMethodField()
    delegation = serializers.SerializerMethodField()
    deployment = serializers.SerializerMethodField(
        help_text="null in lists, and in the response to a create"
    )
    labels = serializers.SerializerMethodField(help_text="words that the owner gave it")
    note = serializers.SerializerMethodField()

    class Meta:
        model = Certificate
        fields = (
            "id",
            "acct_id",
            "acme_account_id",
            "dns_provider_id",
            "verify_method",
            "verify_device_id",
            "domain_name",
            "domain",
            "sans",
            "status",
            "self_signed",
            "verified",
            "public_id",
            "organization",
            "organizational_unit",
            "country",
            "state",
            "locality",
            "key_type",
            "key_size",
            "key_dist_policy",
            "server_decrypt_export",
            "auto_renew",
            "renew_days_before",
            "profile",
            "preferred_chain",
            "reuse_key",
            "fallback_account_id",
            "rollout",
            "install_window",
            "revoke_superseded",
            "deployment",
            "renew_at",
            "renewal",
            "serial_number",
            "not_before",
            "not_after",
            "fingerprint_sha256",
            "revoke_asked_at",
            "revoked_at",
            "issuance",
            "delegation",
            "labels",
            "note",
            "created_at",
            "updated_at",
        )
        read_only_fields = fields

    def get_serial_number(self, certificate: Certificate) -> str:
        return certificate.current.serial if certificate.current else ""

    def get_not_before(self, certificate: Certificate) -> int:
        return int(certificate.current.not_before.timestamp()) if certificate.current else 0

    def get_not_after(self, certificate: Certificate) -> int:
        return int(certificate.current.not_after.timestamp()) if certificate.current else 0

    def get_fingerprint_sha256(self, certificate: Certificate) -> str:
        return certificate.current.fingerprint if certificate.current else ""

    @extend_schema_field(ProgressSerializer(allow_null=True))
    def get_issuance(self, certificate: Certificate) -> dict[str, Any] | None:
        open_one = Issuance.objects.open_of(certificate)
        return progress(open_one) if open_one else None

    @extend_schema_field(DelegationSerializer(allow_null=True))
    def get_delegation(self, certificate: Certificate) -> dict[str, Any] | None:
        return delegation.shown(certificate)

    @extend_schema_field(DeploymentCountsSerializer(allow_null=True))
    def get_deployment(self, certificate: Certificate) -> dict[str, Any] | None:
        return counts(certificate) if self.context.get("counts") else None

    def get_labels(self, certificate: Certificate) -> list[str]:
        return sorted(each.name for each in certificate.labels.all())

    def get_note(self, certificate: Certificate) -> str:
        return note(certificate)


class IssuingSerializer(CertificateSerializer):
    """The response of create, change and a private CA's `issue`.

    It has the certificate, and the id of the attempt that the call started.
    """

    issue_history_id = serializers.IntegerField(required=False)

    class Meta(CertificateSerializer.Meta):
        fields = (*CertificateSerializer.Meta.fields, "issue_history_id")  # type: ignore[assignment]


class OrderSerializer(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    url = serializers.CharField(source="order_url")
    state = serializers.CharField()


MOST = ("cert", "csr", "dhparam", "der", "orders")


@extend_schema_serializer(extensions={OPTIONAL: MOST})
class FullCertificateSerializer(CertificateSerializer):
    """The response with `?detail=most`: also the chain, its CSR and its orders."""

    cert = serializers.CharField(source="current.chain_pem", read_only=True, default="")
    csr = serializers.CharField(source="current.issuance.csr_pem", read_only=True, default="")
    dhparam = serializers.SerializerMethodField()
    der = serializers.SerializerMethodField(help_text="base64")
    orders = serializers.SerializerMethodField()

    class Meta(CertificateSerializer.Meta):
        fields = (*CertificateSerializer.Meta.fields, *MOST)  # type: ignore[assignment]

    def get_dhparam(self, certificate: Certificate) -> str:
        return ""

    def get_der(self, certificate: Certificate) -> str:
        version = certificate.current
        return base64.b64encode(pki.to_der(version.chain_pem)).decode() if version else ""

    @extend_schema_field(OrderSerializer(many=True))
    def get_orders(self, certificate: Certificate) -> list[dict[str, Any]]:
        orders = certificate.issuances.exclude(order_url="").order_by("-pk")[:20]
        return [dict(OrderSerializer(order).data) for order in orders]
