"""The shapes of the contract (sections 7, 9 and 10). The guide's spelling is read beside the reference's."""

import base64
from typing import Any

from rest_framework import serializers

from certctrl.api import EpochMillis, EpochSeconds
from certctrl.errors import Invalid, MissingField
from issuance import pki, privateca
from issuance.models import AcmeAccount, Certificate, CertificateVersion, Issuance, IssuanceEvent, PrivateCA

STATUS_OF = {  # house section 7
    Issuance.State.QUEUED: "PENDING",
    Issuance.State.ISSUED: "SUCCESS",
    Issuance.State.FAILED: "FAILED",
    Issuance.State.CANCELED: "CANCELLED",
}
MOST_SECONDS = 100 * 366 * 86400


def status_of(issuance: Issuance) -> str:
    return STATUS_OF.get(Issuance.State(issuance.state), "PROCESSING")


# --- accounts ---


class AccountRequest(serializers.Serializer[Any]):
    """`ca_provider` or `provider`; what a CA needs besides is refused or asked for by name."""

    ca_provider = serializers.CharField(required=False, max_length=32)
    provider = serializers.CharField(required=False, max_length=32)
    email = serializers.EmailField(required=False, allow_blank=True, max_length=254)
    name = serializers.CharField(required=False, allow_blank=True, max_length=64)
    terms_accepted = serializers.BooleanField(required=False, help_text="of the CA; must be true")
    directory_url = serializers.CharField(required=False, allow_blank=True, max_length=500)
    eab_kid = serializers.CharField(required=False, allow_blank=True, max_length=255)
    eab_hmac_key = serializers.CharField(required=False, allow_blank=True, max_length=1024, write_only=True)
    zerossl_api_key = serializers.CharField(required=False, allow_blank=True, max_length=255, write_only=True)
    ca_id = serializers.IntegerField(required=False, allow_null=True, min_value=0, max_value=2**62)
    leaf_key_algorithm = serializers.CharField(required=False, allow_blank=True, max_length=8)
    leaf_rsa_bits = serializers.IntegerField(required=False, allow_null=True)
    leaf_ec_curve = serializers.CharField(required=False, allow_blank=True, max_length=16)
    cert_valid_seconds = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=MOST_SECONDS)

    def validate(self, given: dict[str, Any]) -> dict[str, Any]:
        provider = given.pop("provider", None)
        if provider:
            given.setdefault("ca_provider", provider)
        if not self.partial and not given.get("ca_provider") and not given.get("ca_id"):
            raise MissingField("Say which CA: ca_provider is letsencrypt, zerossl, custom, …", field="ca_provider")
        if not self.partial and "terms_accepted" not in given and not provider:
            raise MissingField("Read the CA's terms and set terms_accepted to true.", field="terms_accepted")
        return given | {"defaults": key_defaults(given)}


def key_defaults(given: dict[str, Any]) -> dict[str, Any]:
    """The key that an account's certificates get when they do not say; Invalid for one that there is not."""
    algorithm, curve = given.get("leaf_key_algorithm", "").lower(), given.get("leaf_ec_curve", "")
    bits, seconds = given.get("leaf_rsa_bits"), given.get("cert_valid_seconds")
    if algorithm not in ("", *pki.KEY_SIZES):
        raise Invalid("leaf_key_algorithm is RSA or ECDSA.", field="leaf_key_algorithm")
    if curve and curve not in privateca.CURVE_SIZES:
        raise Invalid("leaf_ec_curve is prime256v1 or secp384r1.", field="leaf_ec_curve")
    if bits and bits not in pki.RSA_SIZES:
        raise Invalid("leaf_rsa_bits is 2048, 3072 or 4096.", field="leaf_rsa_bits")
    size = (bits or 2048) if algorithm == "rsa" else privateca.CURVE_SIZES.get(curve, 256)
    kind = {"key_type": algorithm, "key_size": size} if algorithm else {}
    return kind | ({"validity_seconds": seconds} if seconds else {})


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
        issued = CertificateVersion.objects.filter(account__private_ca=private_ca)
        last = issued.order_by("-pk").values_list("created_at", flat=True).first()
        return super().to_representation(private_ca) | {
            "curve_name": privateca.CURVE_NAMES.get(private_ca.key_size, ""),
            **{field: private_ca.subject.get(field, "") for field in privateca.TEXT_FIELDS},
            "valid_days": (private_ca.not_after - private_ca.not_before).days,
            "key_usage": privateca.key_usage_of(private_ca.certificate_pem),
            "issued_cert_count": issued.count(),
            "last_used_at": int(last.timestamp() * 1000) if last else 0,
        }


# --- certificates ---


class CertificateRequest(serializers.Serializer[Any]):
    """`domain` (the guide's spelling: issues at once) or `domain_name` (makes the record)."""

    action = serializers.CharField(required=False)
    domain = serializers.CharField(required=False, max_length=1024)
    domain_name = serializers.CharField(required=False, max_length=1024)
    sans = serializers.ListField(child=serializers.CharField(max_length=1024), required=False, max_length=1000)
    acme_account_id = serializers.IntegerField(required=False, min_value=1, max_value=2**62)
    acct_id = serializers.IntegerField(required=False, min_value=1, max_value=2**62)
    dns_provider_id = serializers.JSONField(required=False, allow_null=True, help_text="an id, or a provider's name")
    key_type = serializers.CharField(required=False, max_length=8)
    key_size = serializers.IntegerField(required=False)
    auto_renew = serializers.BooleanField(required=False)
    renew_days_before = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=3650)
    organization = serializers.CharField(required=False, allow_blank=True, max_length=64)
    organizational_unit = serializers.CharField(required=False, allow_blank=True, max_length=64)
    country = serializers.RegexField(r"^[A-Za-z]{2}$", required=False, allow_blank=True)
    state = serializers.CharField(required=False, allow_blank=True, max_length=64)
    locality = serializers.CharField(required=False, allow_blank=True, max_length=64)
    key_dist_policy = serializers.ChoiceField(Certificate._meta.get_field("key_policy").choices or [], required=False)
    server_decrypt_export = serializers.BooleanField(required=False)

    COLUMNS = (
        "auto_renew",
        "renew_days_before",
        "organization",
        "organizational_unit",
        "state",
        "locality",
        "server_decrypt_export",
    )

    def validate(self, given: dict[str, Any]) -> dict[str, Any]:
        columns = {name: given[name] for name in self.COLUMNS if name in given}
        if "country" in given:
            columns["country"] = given["country"].upper()
        if "key_dist_policy" in given:
            columns["key_policy"] = given["key_dist_policy"]
        return {
            "domain": given.get("domain_name") or given.get("domain"),
            "sans": given.get("sans", []),
            "account": given.get("acct_id") or given.get("acme_account_id"),
            "dns": given.get("dns_provider_id"),
            "has_dns": "dns_provider_id" in given,
            "key_type": given.get("key_type", "").lower(),
            "key_size": given.get("key_size"),
            "columns": columns,
            "action": given.get("action", ""),
            "issues_at_once": "domain" in given,
        }


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
    if not certificate.server_decrypt_export:
        return "Nobody can fetch the key yet: assign a device, or set server_decrypt_export to true."
    return ""


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


class IssueRequest(serializers.Serializer[Any]):
    validity_seconds = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=MOST_SECONDS)


class RevokeRequest(serializers.Serializer[Any]):
    reason = serializers.JSONField(required=False, help_text="RFC 5280: a name such as keyCompromise, or its number")


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
