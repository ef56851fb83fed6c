"""The API of probes: which certificate does an address serve?"""

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext_lazy
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from certctrl.addresses import HOST, literal
from certctrl.api import NO_CONTENT, CountedThrottle, EpochSeconds, OneOf, OwnedMixin, parsed
from certctrl.errors import NotFound
from certctrl.sentences import sentence as _
from issuance import services
from issuance.identifiers import WILDCARD
from issuance.models import Certificate, Probe
from issuance.probes import STARTTLS, Target

NOT_A_HOST = _("This is no address. Give a host name or an IP address, without the port.")


class ProbeThrottle(CountedThrottle):
    scope = "probe"
    rate = "60/hour"


class ProbeRequest(serializers.Serializer[Any]):
    """An address to look at. With `daily`, the server looks again each day."""

    address = serializers.RegexField(
        rf"(?i)\A({HOST.pattern})\Z", max_length=253, error_messages={"invalid": NOT_A_HOST}
    )
    port = serializers.IntegerField(min_value=1, max_value=65535, default=443)
    sni = serializers.RegexField(
        r"(?i)\A[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?\Z",
        required=False,
        allow_blank=True,
        allow_null=True,
        max_length=253,
        help_text="the address if it is a name, else the domain; empty to send none",
        error_messages={
            "invalid": gettext_lazy("This is no host name. Give one, such as www.example.com.")
        },
    )
    starttls = OneOf([*STARTTLS], required=False, allow_blank=True, allow_null=True)
    daily = serializers.BooleanField(default=False)


class ProbeSerializer(serializers.ModelSerializer[Probe]):
    """The certificate that an address served. `id` is null when the probe is not daily."""

    id = serializers.IntegerField(read_only=True, allow_null=True)
    daily = serializers.SerializerMethodField()
    serial_number = serializers.CharField(source="serial", read_only=True)
    fingerprint_sha256 = serializers.CharField(source="fingerprint", read_only=True)
    not_after = EpochSeconds(allow_null=True)
    is_current = serializers.BooleanField(source="shows_current", read_only=True)
    probed_at = EpochSeconds()
    error = serializers.CharField(source="error_what", read_only=True)

    class Meta:
        model = Probe
        fields = (
            "id",
            "address",
            "port",
            "sni",
            "starttls",
            "daily",
            "serial_number",
            "fingerprint_sha256",
            "not_after",
            "is_current",
            "probed_at",
            "error",
        )
        read_only_fields = fields

    def get_daily(self, probe: Probe) -> bool:
        return probe.pk is not None


def target_of(certificate: Certificate, given: Mapping[str, Any]) -> Target:
    address = given["address"].lower().strip("[]")
    sni = given.get("sni")
    if sni is None:
        names = (address, certificate.domain.removeprefix(WILDCARD))
        sni = next((name for name in names if not literal(name)), "")
    return Target(address, given["port"], sni.lower(), given.get("starttls") or "")


class ProbeViewSet(OwnedMixin, GenericViewSet[Certificate]):
    queryset = Certificate.objects.filter(retired_at=None).select_related("current", "owner")
    serializer_class = ProbeSerializer
    obtype = "certificates"
    permissions = {"create": "write", "list": "read", "destroy": "write"}

    def get_throttles(self) -> list[Any]:
        return [ProbeThrottle()] if self.action == "create" else []

    @extend_schema(request=ProbeRequest, responses={200: ProbeSerializer})
    def create(self, request: Request, **kwargs: Any) -> Response:
        """Look now which certificate the address serves. This is one TLS handshake."""
        certificate = self.get_object()
        given = parsed(ProbeRequest, request)
        target = target_of(certificate, given)
        probe = services.probe_now(certificate, target, daily=given["daily"])
        return Response(ProbeSerializer(probe).data)

    @extend_schema(responses=ProbeSerializer(many=True))
    def list(self, request: Request, **kwargs: Any) -> Response:
        """List the daily probes with their last results, newest first."""
        rows = Probe.objects.filter(certificate=self.get_object())
        page = self.paginate_queryset(rows.select_related("certificate__current").order_by("-pk"))
        return self.get_paginated_response(ProbeSerializer(page or [], many=True).data)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, probe_id: int, **kwargs: Any) -> Response:
        certificate = self.get_object()
        probe = certificate.probes.filter(pk=probe_id).first()
        if probe is None:
            raise NotFound(
                _(
                    "%(domain)s has no daily probe %(probe_id)s. Check the id.",
                    domain=certificate.domain,
                    probe_id=probe_id,
                )
            )
        services.forget_probe(probe)
        return Response(status=NO_CONTENT)
