"""What answers hold of accounts at CAs, their limits, and private CAs: contract sections 7 and 10."""

from typing import Any

from rest_framework import serializers

from certctrl.api import EpochMillis, EpochSeconds
from issuance import privateca
from issuance.models import AcmeAccount, LimitBucket, PrivateCA


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
