"""What answers hold: the shapes of the contract, sections 7, 9 and 10."""

import base64
from typing import Any

from rest_framework import serializers

from certctrl.api import EpochMillis, EpochSeconds
from issuance import pki, privateca
from issuance.models import AcmeAccount, Certificate, Issuance, IssuanceEvent, PrivateCA

STATUS_OF = {  # house section 7
    Issuance.State.QUEUED: "PENDING",
    Issuance.State.ISSUED: "SUCCESS",
    Issuance.State.FAILED: "FAILED",
    Issuance.State.CANCELED: "CANCELLED",
}


def status_of(issuance: Issuance) -> str:
    return STATUS_OF.get(Issuance.State(issuance.state), "PROCESSING")


# --- accounts ---


class AccountSerializer(serializers.ModelSerializer[AcmeAccount]):
    user_id = serializers.IntegerField(source="owner_id", read_only=True)
    provider = serializers.CharField(source="ca_provider", read_only=True)
    ca_id = serializers.IntegerField(source="private_ca_id", read_only=True, allow_null=True)
    kid = serializers.SerializerMethodField()
    created_at = EpochSeconds()
    updated_at = EpochSeconds()

    class Meta:
        model = AcmeAccount
        fields = (
            "id",
            "user_id",
            "name",
            "email",
            "provider",
            "ca_provider",
            "directory_url",
            "kid",
            "ca_id",
            "status",
            "error_code",
            "error_what",
            "eab_kid",
            "created_at",
            "updated_at",
        )
        read_only_fields = fields

    def get_kid(self, account: AcmeAccount) -> str | None:
        return account.url or None

    def to_representation(self, account: AcmeAccount) -> dict[str, Any]:
        kind = account.defaults.get("key_type", "")
        size = account.defaults.get("key_size")
        return super().to_representation(account) | {
            "leaf_key_algorithm": kind.upper(),
            "leaf_rsa_bits": size if kind == "rsa" else None,
            "leaf_ec_curve": privateca.CURVE_NAMES.get(size, "") if kind == "ecdsa" else "",
            "cert_valid_seconds": account.defaults.get("validity_seconds"),
        }


# --- private CAs ---


class PrivateCASerializer(serializers.ModelSerializer[PrivateCA]):
    user_id = serializers.IntegerField(source="owner_id", read_only=True)
    ca_certificate_pem = serializers.CharField(source="certificate_pem", read_only=True)
    enc_scheme = serializers.ReadOnlyField(default=1)
    not_before = EpochMillis()
    not_after = EpochMillis()
    created_at = EpochMillis()
    updated_at = EpochMillis()

    class Meta:
        model = PrivateCA
        fields = (
            "id",
            "user_id",
            "name",
            "algorithm",
            "key_size",
            "max_path_length",
            "serial_number",
            "ca_certificate_pem",
            "status",
            "not_before",
            "not_after",
            "enc_scheme",
            "created_at",
            "updated_at",
        )
        read_only_fields = fields

    def to_representation(self, private_ca: PrivateCA) -> dict[str, Any]:
        last = getattr(private_ca, "last_used_at", None)
        return super().to_representation(private_ca) | {
            "curve_name": privateca.CURVE_NAMES.get(private_ca.key_size, ""),
            **{field: private_ca.subject.get(field, "") for field in privateca.TEXT_FIELDS},
            "valid_days": (private_ca.not_after - private_ca.not_before).days,
            "key_usage": privateca.key_usage_of(private_ca.certificate_pem),
            "issued_cert_count": getattr(private_ca, "issued_cert_count", 0),
            "last_used_at": int(last.timestamp() * 1000) if last else 0,
        }


# --- certificates ---


class CertificateSerializer(serializers.ModelSerializer[Certificate]):
    """Metadata of a certificate, in both spellings; never its key."""

    acct_id = serializers.IntegerField(source="account_id", read_only=True)
    acme_account_id = serializers.IntegerField(source="account_id", read_only=True)
    dns_provider_id = serializers.IntegerField(source="credential_id", read_only=True, allow_null=True)
    domain_name = serializers.CharField(source="domain", read_only=True)
    key_dist_policy = serializers.CharField(source="key_policy", read_only=True)
    self_signed = serializers.BooleanField(source="account.is_private", read_only=True)
    created_at = EpochSeconds()
    updated_at = EpochSeconds()
    renew_at = EpochSeconds(allow_null=True)

    class Meta:
        model = Certificate
        fields = (
            "id",
            "acct_id",
            "acme_account_id",
            "dns_provider_id",
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
            "renew_at",
            "created_at",
            "updated_at",
        )
        read_only_fields = fields

    def to_representation(self, certificate: Certificate) -> dict[str, Any]:
        shown: dict[str, Any] = super().to_representation(certificate)
        version, open_one = certificate.current, certificate.open_issuance()
        return shown | {
            "serial_number": version.serial if version else "",
            "not_before": int(version.not_before.timestamp()) if version else 0,
            "not_after": int(version.not_after.timestamp()) if version else 0,
            "fingerprint_sha256": version.fingerprint if version else "",
            "issuance": progress(open_one) if open_one else None,
            "note": note(certificate),
        }


class FullCertificateSerializer(CertificateSerializer):
    """`?detail=most`: the certificate itself, its CSR and its orders beside the metadata."""

    def to_representation(self, certificate: Certificate) -> dict[str, Any]:
        version = certificate.current
        orders = certificate.issuances.exclude(order_url="").order_by("-pk")
        return super().to_representation(certificate) | {
            "cert": version.chain_pem if version else "",
            "csr": version.issuance.csr_pem if version else "",
            "dhparam": "",
            "der": base64.b64encode(pki.to_der(version.chain_pem)).decode() if version else "",
            "orders": [{"id": order.pk, "url": order.order_url, "state": order.state} for order in orders[:20]],
        }


def note(certificate: Certificate) -> str:
    """A sentence about what will surprise; empty when nothing will."""
    if certificate.key_policy == "DEVICE_REQUIRED":
        return "DEVICE_REQUIRED: nothing is issued before a device is assigned."
    if certificate.server_decrypt_export:
        return ""
    if certificate.key_policy == "MASTER_ONLY":
        return "Nobody can fetch the key yet: set server_decrypt_export to true."
    return "Nobody can fetch the key yet: assign a device, or set server_decrypt_export to true."


def progress(issuance: Issuance) -> dict[str, Any]:
    """An open attempt: its state, what it waits for and when it looks again (epoch seconds)."""
    return {
        "issue_history_id": issuance.pk,
        "state": issuance.state,
        "status": status_of(issuance),
        "waits_for": issuance.waits_for,
        "looks_again_at": int(issuance.wake_at.timestamp()) if issuance.wake_at and not issuance.holder else None,
        "started_at": int(issuance.created_at.timestamp()),
    }


# --- attempts ---


class AttemptSerializer(serializers.ModelSerializer[Issuance]):
    """The answer of `issues`, `renew` and `cancel`."""

    issue_history_id = serializers.IntegerField(source="pk", read_only=True)
    status = serializers.SerializerMethodField()

    class Meta:
        model = Issuance
        fields: tuple[str, ...] = ("issue_history_id", "status")

    def get_status(self, issuance: Issuance) -> str:
        return status_of(issuance)


class IssueResultSerializer(AttemptSerializer):
    error_message = serializers.CharField(source="error_what", read_only=True)

    class Meta(AttemptSerializer.Meta):
        fields = (*AttemptSerializer.Meta.fields, "certificate_id", "state", "waits_for", "error_code", "error_message")

    def to_representation(self, issuance: Issuance) -> dict[str, Any]:
        looks_again_at = progress(issuance)["looks_again_at"]
        return super().to_representation(issuance) | {"looks_again_at": looks_again_at}


class HistorySerializer(serializers.ModelSerializer[Issuance]):
    cert_record_id = serializers.IntegerField(source="certificate_id", read_only=True)
    issue_attempt_number = serializers.IntegerField(source="number", read_only=True)
    acme_order_id = serializers.CharField(source="order_url", read_only=True)
    error_message = serializers.CharField(source="error_what", read_only=True)
    status = serializers.SerializerMethodField()
    started_at = EpochMillis(source="created_at")
    completed_at = serializers.SerializerMethodField()

    class Meta:
        model = Issuance
        fields = (
            "id",
            "cert_record_id",
            "issue_attempt_number",
            "status",
            "state",
            "reason",
            "acme_order_id",
            "error_code",
            "error_message",
            "started_at",
            "completed_at",
        )
        read_only_fields = fields

    def get_status(self, issuance: Issuance) -> str:
        return status_of(issuance)

    def get_completed_at(self, issuance: Issuance) -> int:
        return int(issuance.ended_at.timestamp() * 1000) if issuance.ended_at else 0


class EventSerializer(serializers.ModelSerializer[IssuanceEvent]):
    at = EpochMillis()

    class Meta:
        model = IssuanceEvent
        fields = ("id", "at", "step", "outcome", "what", "took_ms")
        read_only_fields = fields
