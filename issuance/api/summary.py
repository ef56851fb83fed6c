"""The numbers of an owner, for dashboards."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from certctrl.api import EpochSeconds, OwnedMixin
from certctrl.errors import Forbidden
from certctrl.sentences import sentence as _
from issuance import services
from issuance.models import Certificate


class DayCountSerializer(serializers.Serializer[Any]):
    day = serializers.DateField(help_text="in UTC")
    renews = serializers.IntegerField()
    ends = serializers.IntegerField()


class SummarySerializer(serializers.Serializer[Any]):
    """Counts of certificates and devices, and the renewals and ends of the next 90 days."""

    total = serializers.IntegerField()
    needs_person = serializers.IntegerField(help_text="they fail, and a person must act")
    retrying = serializers.IntegerField(help_text="they fail, and are tried again")
    in_progress = serializers.IntegerField()
    expired = serializers.IntegerField()
    ends_within_30_days = serializers.IntegerField()
    soonest_end = EpochSeconds(allow_null=True)
    devices = serializers.IntegerField(help_text="active ones")
    not_serving = serializers.IntegerField(
        help_text="certificates on devices that do not serve the version they should"
    )
    days = DayCountSerializer(many=True)


class SummaryViewSet(OwnedMixin, GenericViewSet[Certificate]):
    queryset = Certificate.objects.none()
    serializer_class = SummarySerializer
    pagination_class = None
    obtype = "certificates"
    permissions = {"list": "read"}

    @extend_schema(responses=SummarySerializer)
    def list(self, request: Request, **kwargs: Any) -> Response:
        """Return how many certificates are in which condition. A key needs `read` on all."""
        if self.granted_ids() is not None:
            raise Forbidden(_("This API key may read only some certificates. Use a key for all."))
        return Response(SummarySerializer(services.summary(self.owner)).data)
