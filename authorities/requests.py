"""Request bodies for ACME accounts and private CAs."""

from typing import Any

from rest_framework import serializers

from authorities import catalog, pki, privateca
from certctrl.api import OneOf
from certctrl.errors import Invalid, MissingField
from certctrl.sentences import sentence as _

MAILTO = "mailto:"
MOST_SECONDS = 2**31 - 1  # the maximum of the column: 68 years


class ContactField(serializers.EmailField):
    """An e-mail address, with or without `mailto:` (the contact URL of RFC 8555, section 7.3)."""

    def to_internal_value(self, data: Any) -> str:
        address: str = super().to_internal_value(data)
        return address[len(MAILTO) :].strip() if address.lower().startswith(MAILTO) else address


class AccountRequest(serializers.Serializer[Any]):
    """An account to create or to change. `provider` is another spelling of `ca_provider`."""

    ca_provider = serializers.CharField(required=False, max_length=32)
    provider = serializers.CharField(required=False, max_length=32)
    email = ContactField(required=False, allow_blank=True, max_length=254)
    name = serializers.CharField(required=False, allow_blank=True, max_length=64)
    terms_accepted = serializers.BooleanField(
        required=False, help_text="accept the CA's terms; must be true"
    )
    directory_url = serializers.CharField(required=False, allow_blank=True, max_length=500)
    eab_kid = serializers.CharField(required=False, allow_blank=True, max_length=255)
    eab_hmac_key = serializers.CharField(
        required=False, allow_blank=True, max_length=1024, write_only=True
    )
    zerossl_api_key = serializers.CharField(
        required=False, allow_blank=True, max_length=255, write_only=True
    )
    ca_id = serializers.IntegerField(required=False, allow_null=True, min_value=0, max_value=2**62)
    leaf_key_algorithm = serializers.CharField(required=False, allow_blank=True, max_length=8)
    leaf_rsa_bits = serializers.IntegerField(required=False, allow_null=True)
    leaf_ec_curve = serializers.CharField(required=False, allow_blank=True, max_length=16)
    cert_valid_seconds = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=MOST_SECONDS
    )
    log_level = OneOf(
        ["debug"],
        required=False,
        allow_blank=True,
        help_text="with debug, every exchange with the CA is stored for 14 days",
    )
    save_requests = serializers.BooleanField(
        required=False, help_text="with log_level debug, request bodies are stored too"
    )
    staging_first = serializers.BooleanField(
        required=False,
        help_text="after three failures in a row, test the next attempt at the CA's staging",
    )

    def validate(self, given: dict[str, Any]) -> dict[str, Any]:
        agree(given, "ca_provider", "provider")
        provider = given.pop("provider", None)
        if provider:
            given.setdefault("ca_provider", provider)
        if not self.partial and not given.get("ca_provider") and not given.get("ca_id"):
            raise MissingField(
                _(
                    "No CA is given. ca_provider must be one of %(known)s.",
                    known=", ".join(catalog.known()),
                ),
                field="ca_provider",
            )
        if (
            not self.partial
            and "terms_accepted" not in given
            and not provider
            and not given.get("ca_id")
        ):
            raise MissingField(
                _("terms_accepted is not true. Read the CA's terms and set it to true."),
                field="terms_accepted",
            )
        return given | {"defaults": key_defaults(given)}


def key_defaults(given: dict[str, Any]) -> dict[str, Any]:
    """Return the default key of an account's certificates. Raise Invalid for an unknown key."""
    algorithm = given.get("leaf_key_algorithm", "").lower()
    curve = given.get("leaf_ec_curve", "")
    bits = given.get("leaf_rsa_bits")
    seconds = given.get("cert_valid_seconds")
    if algorithm not in ("", *pki.KEY_SIZES):
        raise Invalid(_("leaf_key_algorithm must be RSA or ECDSA."), field="leaf_key_algorithm")
    if curve and curve not in privateca.CURVE_SIZES:
        raise Invalid(_("leaf_ec_curve must be prime256v1 or secp384r1."), field="leaf_ec_curve")
    if bits is not None and bits not in pki.RSA_SIZES:
        raise Invalid(_("leaf_rsa_bits must be 2048, 3072 or 4096."), field="leaf_rsa_bits")
    algorithm = algorithm or ("ecdsa" if curve else "rsa" if bits else "")
    size = (bits or 2048) if algorithm == "rsa" else privateca.CURVE_SIZES.get(curve, 256)
    kind = {"key_type": algorithm, "key_size": size} if algorithm else {}
    return kind | ({"validity_seconds": seconds} if seconds else {})


class PrivateCARequest(serializers.Serializer[Any]):
    """The body for `privateca.create_private_ca()`. Empty strings count as absent."""

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
    valid_days = serializers.IntegerField(
        required=False, min_value=1, max_value=privateca.MAX_CA_DAYS
    )
    max_path_length = serializers.IntegerField(
        required=False, min_value=0, max_value=privateca.MAX_PATH_LENGTH
    )
    key_usage = serializers.CharField(required=False, help_text=privateca.DEFAULT_KEY_USAGE)


def agree(given: dict[str, Any], guides: str, references: str) -> None:
    """Raise Invalid when two spellings of a member have different values. Case is ignored."""
    if (
        guides in given
        and references in given
        and str(given[guides]).lower() != str(given[references]).lower()
    ):
        raise Invalid(
            _(
                "%(guides)s and %(references)s are two names of one member. Give one of them.",
                guides=guides,
                references=references,
            ),
            field=guides,
        )
