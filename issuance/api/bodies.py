"""What requests hold (contract, sections 7, 9 and 10). The guide's spelling is read beside the reference's."""

from typing import Any

from rest_framework import serializers

from certctrl.api import OneOf
from certctrl.errors import Invalid, MissingField
from issuance import ca, pki, privateca
from issuance.models import Certificate

MAILTO = "mailto:"
MOST_SECONDS = 2**31 - 1  # what the column holds: 68 years


class ContactField(serializers.EmailField):
    """An e-mail address, also as the URL of an ACME contact (RFC 8555, section 7.3)."""

    def to_internal_value(self, data: Any) -> str:
        address: str = super().to_internal_value(data)
        return address[len(MAILTO) :].strip() if address.lower().startswith(MAILTO) else address


class AccountRequest(serializers.Serializer[Any]):
    """`ca_provider` or `provider`; what a CA needs besides is refused or asked for by name."""

    ca_provider = serializers.CharField(required=False, max_length=32)
    provider = serializers.CharField(required=False, max_length=32)
    email = ContactField(required=False, allow_blank=True, max_length=254)
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
    log_level = OneOf(
        ["debug"], required=False, allow_blank=True, help_text="debug: every exchange with the CA is kept for 14 days"
    )
    save_requests = serializers.BooleanField(required=False, help_text="with log_level debug: what was sent, too")
    staging_first = serializers.BooleanField(
        required=False, help_text="prove the next attempt at the CA's staging after three failures in a row"
    )

    def validate(self, given: dict[str, Any]) -> dict[str, Any]:
        agree(given, "ca_provider", "provider")
        provider = given.pop("provider", None)
        if provider:
            given.setdefault("ca_provider", provider)
        if not self.partial and not given.get("ca_provider") and not given.get("ca_id"):
            raise MissingField(f"Say which CA: ca_provider is one of {', '.join(ca.known())}.", field="ca_provider")
        if not self.partial and "terms_accepted" not in given and not provider and not given.get("ca_id"):
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
    if bits is not None and bits not in pki.RSA_SIZES:
        raise Invalid("leaf_rsa_bits is 2048, 3072 or 4096.", field="leaf_rsa_bits")
    algorithm = algorithm or ("ecdsa" if curve else "rsa" if bits else "")
    size = (bits or 2048) if algorithm == "rsa" else privateca.CURVE_SIZES.get(curve, 256)
    kind = {"key_type": algorithm, "key_size": size} if algorithm else {}
    return kind | ({"validity_seconds": seconds} if seconds else {})


class PrivateCARequest(serializers.Serializer[Any]):
    """What privateca.create_private_ca() reads; empty strings count as absent."""

    name = serializers.CharField(max_length=64)
    algorithm = OneOf(["ECDSA", "RSA"], required=False)
    key_size = serializers.IntegerField(required=False, help_text="bits")
    curve_name = OneOf(["prime256v1", "secp384r1"], required=False)
    country = serializers.CharField(required=False, max_length=2)
    organization = serializers.CharField(required=False, max_length=64)
    organizational_unit = serializers.CharField(required=False, max_length=64)
    common_name = serializers.CharField(required=False, max_length=64)
    state = serializers.CharField(required=False, max_length=64)
    locality = serializers.CharField(required=False, max_length=64)
    valid_days = serializers.IntegerField(required=False, min_value=1, max_value=privateca.MAX_CA_DAYS)
    max_path_length = serializers.IntegerField(required=False, min_value=0, max_value=privateca.MAX_PATH_LENGTH)
    key_usage = serializers.CharField(required=False, help_text=privateca.DEFAULT_KEY_USAGE)


class CertificateRequest(serializers.Serializer[Any]):
    """`domain` (the guide's spelling: issues at once) or `domain_name` (makes the record)."""

    action = OneOf(["create"], required=False, allow_blank=True)
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
    key_dist_policy = OneOf(Certificate._meta.get_field("key_policy").choices or [], required=False)
    server_decrypt_export = serializers.BooleanField(required=False)
    profile = serializers.RegexField(
        r"\A[A-Za-z0-9_-]{1,64}\Z",
        required=False,
        allow_blank=True,
        help_text="ordered where the CA's directory lists it",
        error_messages={"invalid": "A profile has at most 64 letters, digits, - and _, such as shortlived."},
    )
    preferred_chain = serializers.CharField(
        required=False, allow_blank=True, max_length=200, help_text="common name of an issuer in the chain"
    )
    reuse_key = serializers.BooleanField(required=False, help_text="renewals keep the key")
    fallback_account_id = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=2**62,
        help_text="the ACME account that is tried when the other one fails for long",
    )

    COLUMNS = (
        "auto_renew",
        "renew_days_before",
        "organization",
        "organizational_unit",
        "state",
        "locality",
        "server_decrypt_export",
        "profile",
        "preferred_chain",
        "reuse_key",
        "fallback_account_id",
    )

    def validate(self, given: dict[str, Any]) -> dict[str, Any]:
        for names in (("domain", "domain_name"), ("acme_account_id", "acct_id")):
            agree(given, *names)
        columns = {name: given[name] for name in self.COLUMNS if name in given}
        if "country" in given:
            columns["country"] = given["country"].upper()
        if "key_dist_policy" in given:
            columns["key_policy"] = given["key_dist_policy"]
        return {
            "domain": given.get("domain_name") or given.get("domain"),
            "sans": given.get("sans"),
            "account": given.get("acct_id") or given.get("acme_account_id"),
            "dns": given.get("dns_provider_id"),
            "has_dns": "dns_provider_id" in given,
            "key_type": given.get("key_type", "").lower(),
            "key_size": given.get("key_size"),
            "columns": columns,
            "action": given.get("action", ""),
            "issues_at_once": "domain" in given,
        }


class CertificateChange(CertificateRequest):
    """Settings and policy; the names stay. `verify_domain` looks at the delegation instead."""

    action = OneOf(["verify_domain"], required=False, allow_blank=True)


def agree(given: dict[str, Any], guides: str, references: str) -> None:
    """Both spellings of a member may be there as long as they say the same, in whatever case."""
    if guides in given and references in given and str(given[guides]).lower() != str(given[references]).lower():
        raise Invalid(f"{guides} and {references} are two spellings of one member: give one of them.", field=guides)


class IssueRequest(serializers.Serializer[Any]):
    validity_seconds = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=MOST_SECONDS)


class PrivateIssueRequest(IssueRequest, CertificateRequest):
    """A certificate of a private CA, asked of the CA itself: the account need not be named, and is one of that CA;
    DNS credentials are of no concern."""


class RevokeRequest(serializers.Serializer[Any]):
    reason = serializers.JSONField(required=False, help_text="RFC 5280: a name such as keyCompromise, or its number")
