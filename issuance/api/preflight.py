"""The API of preflight, and the CNAMEs of certificates that use the service zone."""

from typing import Any

import structlog
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.throttling import UserRateThrottle

from certctrl import disk
from certctrl.api import EpochSeconds
from certctrl.errors import Unavailable
from certctrl.sentences import sentence as _
from issuance.api.limits import LimitSerializer

log = structlog.get_logger()


class PreflightThrottle(UserRateThrottle):
    """Limit preflights to 30 an hour for each user, counted in the cache.

    A preflight of a certificate with a hundred names sends hundreds of DNS queries. Raise
    Unavailable when the cache is away, because a preflight is never urgent.
    """

    scope = "preflight"
    rate = "30/hour"

    def allow_request(self, request: Request, view: Any) -> bool:
        try:
            return super().allow_request(request, view)
        except Exception as exc:  # any error of the cache's client
            log.warning("preflight.uncounted", error=type(exc).__name__)
            full = disk.note(exc)
            raise full or Unavailable(
                _("DNS checks are not available now, because the cache is down. Try again later.")
            ) from exc


class FindingSerializer(serializers.Serializer[Any]):
    """A finding: a wrong record, and how to fix it."""

    code = serializers.CharField()
    name = serializers.CharField(help_text="one of the certificate's")
    record = serializers.CharField()
    what = serializers.CharField()
    fix = serializers.CharField(
        help_text="the record to add, as in a zone file, where that is the fix; else empty"
    )
    blocks = serializers.BooleanField(help_text="true when the CA would refuse an order")


class PreflightSerializer(serializers.Serializer[Any]):
    """The findings. `ok` is true when none of them blocks an order."""

    ok = serializers.BooleanField()
    findings = FindingSerializer(many=True)


class ZoneProofSerializer(serializers.Serializer[Any]):
    """A zone of the names, and the TXT records that prove them."""

    zone = serializers.CharField(help_text="as resolvers see it, or the registered domain")
    names = serializers.ListField(child=serializers.CharField())
    records = serializers.ListField(
        child=serializers.CharField(), help_text="the names of the TXT records"
    )
    is_seen = serializers.BooleanField(
        allow_null=True,
        help_text="whether the DNS provider shows it to the credential; null without an answer",
    )
    proved_by = serializers.IntegerField(
        allow_null=True, help_text="the DNS credential that proved names of the domain last"
    )


class ExpectedSerializer(serializers.Serializer[Any]):
    """When a certificate that is issued now would end and be renewed."""

    not_after = EpochSeconds()
    renew_at = EpochSeconds()


class PreflightOfRequestSerializer(PreflightSerializer):
    """The findings, and what a second certificate with the same names would cost."""

    zones = ZoneProofSerializer(many=True, help_text="empty if no TXT record proves the names")
    expected = ExpectedSerializer(
        allow_null=True, help_text="null until the account has issued with this profile"
    )
    same_names = serializers.ListField(
        child=serializers.IntegerField(),
        help_text="your certificates with exactly these names, newest first",
    )
    limit = LimitSerializer(
        allow_null=True, help_text="the CA's limit for exactly these names; null without one"
    )


class DelegationCnameSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    target = serializers.CharField()


class DelegationSerializer(serializers.Serializer[Any]):
    """The CNAMEs for a certificate without a DNS credential, and whether they were seen."""

    zone = serializers.CharField()
    target = serializers.CharField()
    cnames = DelegationCnameSerializer(many=True)
    verified = serializers.BooleanField()
