"""What answers hold: the shapes of the contract, sections 7, 9 and 10."""

import base64
from typing import Any

from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from certctrl.api import EpochMillis, EpochSeconds
from certctrl.schema import OPTIONAL
from issuance import delegation, pki, privateca
from issuance.api.checking import DelegationSerializer
from issuance.api.renewals import RenewalSerializer
from issuance.models import AcmeAccount, Certificate, Exchange, Issuance, IssuanceEvent, LimitBucket, PrivateCA

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
    leaf_key_algorithm = serializers.SerializerMethodField()
    leaf_rsa_bits = serializers.SerializerMethodField()
    leaf_ec_curve = serializers.SerializerMethodField()
    cert_valid_seconds = serializers.IntegerField(
        source="defaults.validity_seconds", read_only=True, default=None, allow_null=True
    )
    staging_account_id = serializers.IntegerField(read_only=True, allow_null=True)
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
            "leaf_key_algorithm",
            "leaf_rsa_bits",
            "leaf_ec_curve",
            "cert_valid_seconds",
            "log_level",
            "save_requests",
            "staging_first",
            "staging_account_id",
            "created_at",
            "updated_at",
        )
        read_only_fields = fields

    def get_kid(self, account: AcmeAccount) -> str | None:
        return account.url or None

    def get_leaf_key_algorithm(self, account: AcmeAccount) -> str:
        return str(account.defaults.get("key_type", "")).upper()

    def get_leaf_rsa_bits(self, account: AcmeAccount) -> int | None:
        return account.defaults.get("key_size") if account.defaults.get("key_type") == "rsa" else None

    def get_leaf_ec_curve(self, account: AcmeAccount) -> str:
        is_ecdsa = account.defaults.get("key_type") == "ecdsa"
        return privateca.CURVE_NAMES.get(account.defaults.get("key_size"), "") if is_ecdsa else ""


class LimitSerializer(serializers.Serializer[Any]):
    """A token bucket of a CA's limit."""

    kind = serializers.ChoiceField(LimitBucket.Kind.choices)
    subject = serializers.CharField(help_text="the account, domain, names or name that is counted")
    capacity = serializers.FloatField(allow_null=True, help_text="tokens; null: nobody knows the CA's limit")
    seconds_for_one = serializers.FloatField(allow_null=True)
    left = serializers.FloatField(allow_null=True, help_text="tokens now; null while it is open and unlimited")
    waiting = serializers.IntegerField(help_text="orders that wait for it")
    next_at = EpochSeconds(help_text="when the next order may have a token")


# --- private CAs ---


class PrivateCASerializer(serializers.ModelSerializer[PrivateCA]):
    user_id = serializers.IntegerField(source="owner_id", read_only=True)
    ca_certificate_pem = serializers.CharField(source="certificate_pem", read_only=True)
    enc_scheme = serializers.SerializerMethodField()
    curve_name = serializers.SerializerMethodField()
    country = serializers.CharField(source="subject.country", read_only=True, default="")
    state = serializers.CharField(source="subject.state", read_only=True, default="")
    locality = serializers.CharField(source="subject.locality", read_only=True, default="")
    organization = serializers.CharField(source="subject.organization", read_only=True, default="")
    organizational_unit = serializers.CharField(source="subject.organizational_unit", read_only=True, default="")
    common_name = serializers.CharField(source="subject.common_name", read_only=True, default="")
    valid_days = serializers.SerializerMethodField()
    key_usage = serializers.SerializerMethodField()
    issued_cert_count = serializers.IntegerField(read_only=True, default=0)
    last_used_at = serializers.SerializerMethodField()
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
            "curve_name",
            "country",
            "state",
            "locality",
            "organization",
            "organizational_unit",
            "common_name",
            "valid_days",
            "max_path_length",
            "key_usage",
            "serial_number",
            "ca_certificate_pem",
            "status",
            "not_before",
            "not_after",
            "issued_cert_count",
            "last_used_at",
            "enc_scheme",
            "created_at",
            "updated_at",
        )
        read_only_fields = fields

    def get_curve_name(self, private_ca: PrivateCA) -> str:
        return privateca.CURVE_NAMES.get(private_ca.key_size, "")

    def get_valid_days(self, private_ca: PrivateCA) -> int:
        return (private_ca.not_after - private_ca.not_before).days

    def get_key_usage(self, private_ca: PrivateCA) -> str:
        return privateca.key_usage_of(private_ca.certificate_pem)

    def get_last_used_at(self, private_ca: PrivateCA) -> int:
        last = getattr(private_ca, "last_used_at", None)
        return int(last.timestamp() * 1000) if last else 0

    def get_enc_scheme(self, private_ca: PrivateCA) -> int:
        return 1


# --- certificates ---


def note(certificate: Certificate) -> str:
    """What will surprise, in sentences; empty when nothing will."""
    waits = delegation.is_delegated(certificate) and not certificate.verified
    told = ["Nothing is issued before every CNAME of `delegation` is set."] if waits else []
    return " ".join(filter(None, [*told, _note_on_key(certificate)]))


def _note_on_key(certificate: Certificate) -> str:
    if certificate.key_policy == "DEVICE_REQUIRED":
        return "DEVICE_REQUIRED: nothing is issued before a device is assigned."
    if certificate.server_decrypt_export:
        return ""
    if certificate.key_policy == "MASTER_ONLY":
        return "Nobody can fetch the key yet: set server_decrypt_export to true."
    return "Nobody can fetch the key yet: assign a device, or set server_decrypt_export to true."


def progress(issuance: Issuance) -> dict[str, Any]:
    """An open attempt: its state, what it waits for and when it looks again (epoch seconds). One that `proves` is made
    at the CA's staging, and what it issues is thrown away."""
    return {
        "issue_history_id": issuance.pk,
        "state": issuance.state,
        "status": status_of(issuance),
        "proves": issuance.proves,
        "waits_for": issuance.waits_for,
        "looks_again_at": int(issuance.wake_at.timestamp()) if issuance.wake_at and not issuance.holder else None,
        "slot_at": int(issuance.slot_at.timestamp()) if issuance.slot_at else None,
        "started_at": int(issuance.created_at.timestamp()),
    }


class ProgressSerializer(serializers.Serializer[Any]):
    """What `progress()` answers."""

    issue_history_id = serializers.IntegerField()
    state = serializers.CharField()
    status = serializers.CharField()
    proves = serializers.BooleanField()
    waits_for = serializers.CharField()
    looks_again_at = serializers.IntegerField(allow_null=True)
    slot_at = serializers.IntegerField(allow_null=True, help_text="when the CA's limits let it order, about")
    started_at = serializers.IntegerField()


class CertificateSerializer(serializers.ModelSerializer[Certificate]):
    """Metadata of a certificate, in both spellings; never its key."""

    acct_id = serializers.IntegerField(source="account_id", read_only=True)
    acme_account_id = serializers.IntegerField(source="account_id", read_only=True)
    dns_provider_id = serializers.IntegerField(source="credential_id", read_only=True, allow_null=True)
    fallback_account_id = serializers.IntegerField(read_only=True, allow_null=True)
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
    issuance = serializers.SerializerMethodField()
    delegation = serializers.SerializerMethodField()
    note = serializers.SerializerMethodField()

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
            "profile",
            "preferred_chain",
            "reuse_key",
            "fallback_account_id",
            "renew_at",
            "renewal",
            "serial_number",
            "not_before",
            "not_after",
            "fingerprint_sha256",
            "issuance",
            "delegation",
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
        open_one = certificate.open_issuance()
        return progress(open_one) if open_one else None

    @extend_schema_field(DelegationSerializer(allow_null=True))
    def get_delegation(self, certificate: Certificate) -> dict[str, Any] | None:
        return delegation.shown(certificate)

    def get_note(self, certificate: Certificate) -> str:
        return note(certificate)


class IssuingSerializer(CertificateSerializer):
    """What create, change and a private CA's issuing answer: the certificate, and the attempt that it started."""

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
    """`?detail=most`: the certificate itself, its CSR and its orders beside the metadata."""

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
    looks_again_at = serializers.SerializerMethodField()
    error_message = serializers.CharField(source="error_what", read_only=True)

    class Meta(AttemptSerializer.Meta):
        fields = (
            *AttemptSerializer.Meta.fields,
            "certificate_id",
            "state",
            "waits_for",
            "looks_again_at",
            "error_code",
            "error_message",
            "failure",
            "proves",
        )

    def get_looks_again_at(self, issuance: Issuance) -> int | None:
        at: int | None = progress(issuance)["looks_again_at"]
        return at


class HistorySerializer(serializers.ModelSerializer[Issuance]):
    cert_record_id = serializers.IntegerField(source="certificate_id", read_only=True)
    issue_attempt_number = serializers.IntegerField(source="number", read_only=True)
    acme_order_id = serializers.CharField(source="order_url", read_only=True)
    error_message = serializers.CharField(source="error_what", read_only=True)
    failure = serializers.ChoiceField(Issuance.Failure.choices, allow_blank=True, read_only=True)
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
            "failure",
            "proves",
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


class ExchangeSerializer(serializers.ModelSerializer[Exchange]):
    """A request to a CA and its answer. `status` is null where no answer came, and `error` says why."""

    at = EpochMillis()

    class Meta:
        model = Exchange
        fields = (
            "id",
            "at",
            "step",
            "method",
            "url",
            "request",
            "status",
            "headers",
            "body",
            "problem",
            "error",
            "took_ms",
        )
        read_only_fields = fields
