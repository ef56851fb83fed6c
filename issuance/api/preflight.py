"""What stands in the way of an order: preflight, and the CNAMEs of certificates that rely on the service zone."""

from typing import Any

import structlog
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.throttling import UserRateThrottle

from certctrl import disk
from certctrl.errors import Unavailable

log = structlog.get_logger()


class CheckThrottle(UserRateThrottle):
    """Each call asks DNS hundreds of questions for a certificate of a hundred names. Counted in the cache; without it
    nothing is asked, since nobody needs it in haste."""

    scope = "preflight"
    rate = "30/hour"

    def allow_request(self, request: Request, view: Any) -> bool:
        try:
            return super().allow_request(request, view)
        except Exception as exc:  # whatever the cache's client raises
            log.warning("preflight.uncounted", error=type(exc).__name__)
            full = disk.note(exc)
            raise full or Unavailable(
                "Calls cannot be counted now, and without that DNS is not asked; try again later."
            ) from exc


class FindingSerializer(serializers.Serializer[Any]):
    """A record at fault: what is wrong with it, and how it is mended."""

    code = serializers.CharField()
    name = serializers.CharField(help_text="one of the certificate's")
    record = serializers.CharField()
    what = serializers.CharField()
    blocks = serializers.BooleanField(help_text="an order would be refused, so none is sent")


class PreflightSerializer(serializers.Serializer[Any]):
    """`ok`: nothing that was found blocks an order."""

    ok = serializers.BooleanField()
    findings = FindingSerializer(many=True)


class DelegationCnameSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    target = serializers.CharField()


class DelegationSerializer(serializers.Serializer[Any]):
    """The CNAMEs that a certificate without a DNS credential of its own needs, and whether they were seen."""

    zone = serializers.CharField()
    target = serializers.CharField()
    cnames = DelegationCnameSerializer(many=True)
    verified = serializers.BooleanField()
