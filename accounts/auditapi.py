"""The API of audit events (docs/reference/audit.md)."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.mixins import ListModelMixin
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from accounts import audit, chain
from accounts.models import AuditEvent
from certctrl.api import EpochMillis, OwnedMixin


class AuditQuery(serializers.Serializer[Any]):
    """Which events are wanted. Each member that is left out, or is empty, allows all."""

    actor = serializers.CharField(required=False, allow_blank=True, max_length=254)
    action = serializers.CharField(
        required=False,
        allow_blank=True,
        max_length=64,
        help_text="such as certificate.created; `certificate.` stands for all of certificates",
    )
    object = serializers.CharField(required=False, allow_blank=True, max_length=254)
    since = serializers.DateTimeField(required=False, help_text="ISO 8601; these and later ones")
    until = serializers.DateTimeField(required=False, help_text="ISO 8601; only earlier ones")


class AuditEventSerializer(serializers.ModelSerializer[AuditEvent]):
    at = EpochMillis()
    is_intact = serializers.SerializerMethodField(
        help_text="whether it still has its hash; null until it is sealed"
    )

    class Meta:
        model = AuditEvent
        fields = (
            "id",
            "at",
            "actor",
            "action",
            "object",
            "ip",
            "detail",
            "place",
            "previous_hash",
            "hash",
            "is_intact",
        )
        read_only_fields = fields

    def get_is_intact(self, event: AuditEvent) -> bool | None:
        return chain.is_intact(event)


class AuditEventViewSet(OwnedMixin, ListModelMixin, GenericViewSet[AuditEvent]):
    queryset = AuditEvent.objects.all()
    serializer_class = AuditEventSerializer
    obtype = "audit"
    permissions = {"list": "read"}

    @extend_schema(parameters=[AuditQuery])
    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """List the audit events of your objects, newest first."""
        return super().list(request, *args, **kwargs)

    def filter_queryset(self, queryset: Any) -> Any:
        given = AuditQuery().run_validation(self.request.query_params)
        return queryset & audit.events_of(self.owner, given).order_by("-pk")
