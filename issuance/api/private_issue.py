"""The API to issue a certificate directly from a private CA."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from accounts.permissions import need
from authorities.models import PrivateCA
from certctrl.api import OwnedMixin, parsed
from issuance import services
from issuance.api import parsing
from issuance.api.assignments import device_of
from issuance.api.certificates import IssuingSerializer
from issuance.api.parsing import IDEMPOTENCY_KEY, idempotency
from issuance.api.requests import (
    CertificateRequest,
    DeviceOfRequest,
    IssueRequest,
    PrivateIssueRequest,
)
from issuance.api.views import shown


class PrivateIssueViewSet(OwnedMixin, GenericViewSet[PrivateCA]):
    queryset = PrivateCA.objects.filter(status=PrivateCA.Status.ACTIVE)
    obtype = "cas"
    permissions = {"issue": "issue"}

    @extend_schema(
        request=PrivateIssueRequest,
        parameters=[IDEMPOTENCY_KEY],
        responses=IssuingSerializer,
    )
    def issue(self, request: Request, **kwargs: Any) -> Response:
        """Issue a certificate of this private CA at once, and assign it to `device_id`."""
        private_ca = self.get_object()
        given = parsed(CertificateRequest, request)
        seconds = parsed(IssueRequest, request).get("validity_seconds")
        device_id = parsed(DeviceOfRequest, request).get("device_id")
        if device_id:
            need(request, "devices", str(device_id), "write")
        certificate, issuance = services.issue_at_private_ca(
            private_ca,
            given["account"],
            lambda account: parsing.spec_of(self.owner, given, account),
            device=device_of(self.owner, pk=device_id) if device_id else None,
            validity_seconds=seconds,
            idempotency=idempotency(request),
        )
        return Response(shown(certificate, issuance))
