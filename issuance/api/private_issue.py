"""The API to issue a certificate directly from a private CA."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from authorities.models import PrivateCA
from certctrl.api import OwnedMixin, parsed
from issuance import services
from issuance.api import parsing
from issuance.api.certificates import IssuingSerializer
from issuance.api.requests import CertificateRequest, IssueRequest, PrivateIssueRequest
from issuance.api.views import IDEMPOTENCY_KEY, idempotency, shown


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
        """Issue a certificate of this private CA at once."""
        private_ca = self.get_object()
        given = parsed(CertificateRequest, request)
        seconds = parsed(IssueRequest, request).get("validity_seconds")
        certificate, issuance = services.issue_at_private_ca(
            private_ca,
            given["account"],
            lambda account: parsing.spec_of(self.owner, given, account),
            validity_seconds=seconds,
            idempotency=idempotency(request),
        )
        return Response(shown(certificate, issuance))
