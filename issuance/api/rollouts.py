"""The state of a certificate on its devices."""

import re
from datetime import datetime
from typing import Any

from django.db.models import Count, Q
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from certctrl.api import EpochSeconds, IdConverter, OwnedMixin
from certctrl.errors import Invalid
from certctrl.sentences import sentence as _
from devices.models import Device
from issuance import services
from issuance.models import Certificate, Deployment


class DeploymentCountsSerializer(serializers.Serializer[Any]):
    """How many active devices have come how far with the current version."""

    devices = serializers.IntegerField()
    wanted = serializers.IntegerField(help_text="may fetch it")
    fetched = serializers.IntegerField()
    installed = serializers.IntegerField()
    served = serializers.IntegerField()
    failed = serializers.IntegerField()


def counts(certificate: Certificate) -> dict[str, int]:
    current = certificate.current
    active = certificate.deployments.filter(device__status=Device.Status.ACTIVE)
    serial = current.serial if current else None
    return active.aggregate(
        devices=Count("pk"),
        wanted=Count("pk", filter=Q(wanted=current) & Q(wanted__isnull=False)),
        fetched=Count("pk", filter=Q(fetched_serial=serial)),
        installed=Count("pk", filter=Q(installed_serial=serial)),
        served=Count("pk", filter=Q(served_serial=serial)),
        failed=Count("pk", filter=Q(failed_serial=serial)),
    )


class StageSerializer(serializers.Serializer[Any]):
    serial = serializers.CharField()
    at = EpochSeconds(allow_null=True)


class FailedSerializer(StageSerializer):
    state = serializers.ChoiceField(Deployment.Failure.choices)
    what = serializers.CharField()


class DeploymentSerializer(serializers.Serializer[Deployment]):
    """The versions that one device should have, fetched, installed and served, with the times.

    Each is null as long as there is none. `failed` is the last failure, until it is over.
    """

    wanted = serializers.SerializerMethodField()
    fetched = serializers.SerializerMethodField()
    installed = serializers.SerializerMethodField()
    served = serializers.SerializerMethodField()
    failed = serializers.SerializerMethodField()
    next_look_at = EpochSeconds(source="wake_at", allow_null=True)

    @extend_schema_field(StageSerializer(allow_null=True))
    def get_wanted(self, row: Deployment) -> dict[str, Any] | None:
        return stage(row.wanted.serial if row.wanted else "", row.wanted_at)

    @extend_schema_field(StageSerializer(allow_null=True))
    def get_fetched(self, row: Deployment) -> dict[str, Any] | None:
        return stage(row.fetched_serial, row.fetched_at)

    @extend_schema_field(StageSerializer(allow_null=True))
    def get_installed(self, row: Deployment) -> dict[str, Any] | None:
        return stage(row.installed_serial, row.installed_at)

    @extend_schema_field(StageSerializer(allow_null=True))
    def get_served(self, row: Deployment) -> dict[str, Any] | None:
        return stage(row.served_serial, row.served_at)

    @extend_schema_field(FailedSerializer(allow_null=True))
    def get_failed(self, row: Deployment) -> dict[str, Any] | None:
        failed = stage(row.failed_serial, row.failed_at)
        return failed and failed | {"state": row.failure, "what": row.failure_what}


def stage(serial: str, at: datetime | None) -> dict[str, Any] | None:
    return {"serial": serial, "at": int(at.timestamp()) if at else None} if serial else None


class DeviceDeploymentSerializer(DeploymentSerializer):
    """A certificate on a device. `current` is the serial number of its newest version."""

    id = serializers.IntegerField(source="pk")
    certificate_id = serializers.IntegerField()
    domain = serializers.CharField(source="certificate.domain")
    device_id = serializers.IntegerField()
    device_name = serializers.CharField(source="device.name")
    by_tag = serializers.BooleanField()
    assigned_at = EpochSeconds()
    current = serializers.CharField(source="certificate.current.serial", default="")


def id_of(text: str) -> int:
    if not re.fullmatch(IdConverter.regex, text):
        raise Invalid(_("device is no id. Give the number of a device."), field="device")
    return int(text)


class DeploymentListViewSet(OwnedMixin, GenericViewSet[Deployment]):
    queryset = Deployment.objects.none()
    serializer_class = DeviceDeploymentSerializer
    obtype = "devices"
    permissions = {"list": "read"}

    @extend_schema(
        parameters=[
            OpenApiParameter("device", int, description="only those of this device"),
            OpenApiParameter("not_serving", bool, description="only those that need a look"),
        ]
    )
    def list(self, request: Request, **kwargs: Any) -> Response:
        """List which certificates are on which devices, and how far each has come."""
        rows = services.deployments_of(self.owner)
        granted = self.granted_ids()
        if granted is not None:
            rows = rows.filter(device__in=granted)
        given = request.query_params
        if device := given.get("device"):
            rows = rows.filter(device=id_of(device))
        if given.get("not_serving") in ("1", "true"):
            rows = services.not_serving(rows)
        related = rows.select_related("wanted", "certificate__current", "device")
        page = self.paginate_queryset(related.order_by("-pk")) or []
        shown = [DeviceDeploymentSerializer(each).data for each in page]
        return self.get_paginated_response(shown)
