"""When a certificate is renewed, as its representation shows it."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from certctrl.api import EpochSeconds
from issuance.models import Certificate, RenewalInfo


class WindowSerializer(serializers.ModelSerializer[RenewalInfo]):
    """What the CA said last (RFC 9773), the moment that was drawn in its window, and why the last poll failed."""

    window_start = EpochSeconds(allow_null=True)
    window_end = EpochSeconds(allow_null=True)
    moment = EpochSeconds(allow_null=True)
    checked_at = EpochSeconds(allow_null=True)
    error = serializers.CharField(source="error_what", read_only=True)

    class Meta:
        model = RenewalInfo
        fields = ("window_start", "window_end", "moment", "explanation_url", "checked_at", "error")
        read_only_fields = fields


class RenewalSerializer(serializers.Serializer[Certificate]):
    renew_at = EpochSeconds(allow_null=True)
    ari = serializers.SerializerMethodField(help_text="null as long as the CA has said nothing of it")

    @extend_schema_field(WindowSerializer(allow_null=True))
    def get_ari(self, certificate: Certificate) -> dict[str, Any] | None:
        info: RenewalInfo | None = getattr(certificate.current, "renewal_info", None)
        was_asked = info and (info.checked_at or info.error_what)
        return dict(WindowSerializer(info).data) if was_asked else None
