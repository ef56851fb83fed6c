"""Request bodies for certificates (docs/reference/api.md). Some members have two spellings."""

from typing import Any

from django.utils.translation import gettext_lazy
from rest_framework import serializers

from authorities.requests import MOST_SECONDS, agree
from certctrl.api import OneOf
from issuance import rollout
from issuance.models import Certificate


class WindowField(serializers.DictField):
    """Hours of a day: `start`, `end`, `timezone`, and optionally the `days` on which it opens."""

    default_error_messages = {"window": "{complaint}"}

    def to_internal_value(self, data: Any) -> Any:
        window = super().to_internal_value(data)
        if complaint := rollout.complaint(window):
            self.fail("window", complaint=complaint)
        return window


class CertificateRequest(serializers.Serializer[Any]):
    """A certificate to create.

    With `domain`, the certificate is issued at once. With `domain_name`, only the record is made.
    """

    action = OneOf(["create"], required=False, allow_blank=True)
    domain = serializers.CharField(required=False, max_length=1024)
    domain_name = serializers.CharField(required=False, max_length=1024)
    sans = serializers.ListField(
        child=serializers.CharField(max_length=1024), required=False, max_length=1000
    )
    acme_account_id = serializers.IntegerField(required=False, min_value=1, max_value=2**62)
    acct_id = serializers.IntegerField(required=False, min_value=1, max_value=2**62)
    dns_provider_id = serializers.JSONField(
        required=False, allow_null=True, help_text="an id, or a provider's name"
    )
    verify_method = OneOf(
        Certificate.VerifyMethod.choices, required=False, help_text="how the names are proved"
    )
    verify_device_id = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=2**62,
        help_text="the device whose agent serves http-01 or tls-alpn-01",
    )
    key_type = serializers.CharField(required=False, max_length=8)
    key_size = serializers.IntegerField(required=False)
    auto_renew = serializers.BooleanField(required=False)
    renew_days_before = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=3650
    )
    organization = serializers.CharField(required=False, allow_blank=True, max_length=64)
    organizational_unit = serializers.CharField(required=False, allow_blank=True, max_length=64)
    country = serializers.RegexField(
        r"\A[A-Za-z]{2}\Z",
        required=False,
        allow_blank=True,
        error_messages={
            "invalid": gettext_lazy("This is no country. Give its two letters, such as SE.")
        },
    )
    state = serializers.CharField(required=False, allow_blank=True, max_length=64)
    locality = serializers.CharField(required=False, allow_blank=True, max_length=64)
    key_dist_policy = OneOf(Certificate._meta.get_field("key_policy").choices or [], required=False)
    server_decrypt_export = serializers.BooleanField(required=False)
    profile = serializers.RegexField(
        r"\A[A-Za-z0-9_-]{1,64}\Z",
        required=False,
        allow_blank=True,
        help_text="sent if the CA's directory lists it",
        error_messages={
            "invalid": gettext_lazy(
                "A profile has at most 64 letters, digits, - and _, such as shortlived."
            )
        },
    )
    preferred_chain = serializers.CharField(
        required=False,
        allow_blank=True,
        max_length=200,
        help_text="common name of an issuer in the chain",
    )
    reuse_key = serializers.BooleanField(required=False, help_text="renewals keep the key")
    fallback_account_id = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=2**62,
        help_text="the ACME account to use when the first one keeps failing",
    )

    rollout = OneOf(
        Certificate.Rollout.choices,
        required=False,
        help_text="canary: one device gets a new version first",
    )
    install_window = WindowField(
        required=False, allow_null=True, help_text="when devices get a new version"
    )
    revoke_superseded = serializers.BooleanField(
        required=False, help_text="revoke a version when its successor is served everywhere"
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
        "verify_method",
        "verify_device_id",
        "rollout",
        "install_window",
        "revoke_superseded",
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
    """Changes of a certificate's settings or key policy. The names cannot change.

    With the action `verify_domain`, only the delegation is checked.
    """

    action = OneOf(["verify_domain"], required=False, allow_blank=True)


class IssueRequest(serializers.Serializer[Any]):
    validity_seconds = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=MOST_SECONDS
    )


class DeviceOfRequest(serializers.Serializer[Any]):
    device_id = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=10**18 - 1
    )


class PrivateIssueRequest(DeviceOfRequest, IssueRequest, CertificateRequest):
    """A certificate to issue from a private CA.

    The account is optional, and must be an account of that CA. A DNS credential is ignored.
    """


class RevokeRequest(serializers.Serializer[Any]):
    reason = serializers.JSONField(
        required=False, help_text="RFC 5280: a name such as keyCompromise, or its number"
    )
