"""The API of owners, who assign certificates and private CAs to devices.

See docs/reference/devices.md.
"""

import re
from typing import Any

from django.db.models import F, QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from accounts.models import ApiKey
from accounts.permissions import need
from authorities.models import PrivateCA
from certctrl.api import NO_CONTENT, EpochMillis, IdConverter, OwnedMixin, parsed
from certctrl.errors import Invalid, MissingField, NotFound
from certctrl.sentences import sentence as _
from devices.models import Device
from devices.serializers import DeviceSerializer, PublicIdField, TagField
from issuance import services, wraps
from issuance.api.attempts import AttemptSerializer
from issuance.api.certificates import CertificateSerializer, FullCertificateSerializer
from issuance.api.materials import (
    PACK,
    MaterialsSerializer,
    TrustedCASerializer,
    delivered,
    trusted_ca,
    trusted_cas,
)
from issuance.api.rollouts import DeploymentSerializer
from issuance.models import Certificate, CertificateTag, Issuance

MOST_ID = 10**18 - 1


class AssignCertificateRequest(serializers.Serializer[Any]):
    cert_id = serializers.IntegerField(min_value=1, max_value=MOST_ID)


class TrustRequest(serializers.Serializer[Any]):
    ca_id = serializers.IntegerField(min_value=1, max_value=MOST_ID)


class AssignRequest(serializers.Serializer[Any]):
    """A device, or a tag of devices."""

    device_id = serializers.IntegerField(min_value=1, max_value=MOST_ID, required=False)
    tag = TagField(required=False)

    def validate(self, given: dict[str, Any]) -> dict[str, Any]:
        if len(given) != 1:
            raise MissingField(_("Send either device_id or tag."), field="device_id")
        return given


class KeyAssignRequest(serializers.Serializer[Any]):
    device_public_id = PublicIdField()


class KeyAssignedSerializer(serializers.Serializer[Any]):
    status = serializers.CharField()
    message = serializers.CharField()


class AssignedDeviceSerializer(DeviceSerializer):
    """A device that a certificate is assigned to.

    `wrap_pending`: the key of the current version is not wrapped for it yet.
    """

    assigned_at = EpochMillis()
    by_tag = serializers.BooleanField(read_only=True)
    wrap_pending = serializers.SerializerMethodField()
    deployment = serializers.SerializerMethodField()

    class Meta(DeviceSerializer.Meta):
        fields = (  # type: ignore[assignment]
            *DeviceSerializer.Meta.fields,
            "assigned_at",
            "by_tag",
            "wrap_pending",
            "deployment",
        )

    def get_wrap_pending(self, device: Device) -> bool:
        return device.pk in self.context["pending"]

    @extend_schema_field(DeploymentSerializer)
    def get_deployment(self, device: Device) -> dict[str, Any]:
        return dict(DeploymentSerializer(self.context["deployments"][device.pk]).data)


class CertificateTagSerializer(serializers.ModelSerializer[CertificateTag]):
    assigned_at = EpochMillis()

    class Meta:
        model = CertificateTag
        fields = ("tag", "assigned_at")
        read_only_fields = fields


def assigned(issuance: Issuance | None) -> Response:
    """Return 204, or 202 with the attempt that makes a new key for the device."""
    if issuance is None:
        return Response(status=NO_CONTENT)
    return Response(AttemptSerializer(issuance).data, status=status.HTTP_202_ACCEPTED)


def certificate_of(owner: Any, pk: int) -> Certificate:
    row = Certificate.objects.filter(pk=pk, owner=owner, retired_at=None).first()
    if row is None:
        raise NotFound(_("You have no certificate %(pk)s. Check the id.", pk=pk), field="cert_id")
    return row


def device_of(owner: Any, **which: Any) -> Device:
    row = Device.objects.filter(owner=owner, **which).first()
    if row is None:
        asked = ", ".join(map(str, which.values()))
        raise NotFound(
            _("You have no device %(asked)s. Check the id.", asked=asked), field="device_id"
        )
    return row


def private_ca_of(owner: Any, pk: int) -> PrivateCA:
    row = PrivateCA.objects.filter(pk=pk, owner=owner, status=PrivateCA.Status.ACTIVE).first()
    if row is None:
        raise NotFound(_("You have no private CA %(pk)s. Check the id.", pk=pk), field="ca_id")
    return row


class DeploymentViewSet(OwnedMixin, GenericViewSet[Device]):
    """The certificates and private CAs of one device. `pk` is the id of the device."""

    queryset = Device.objects.all()
    serializer_class = CertificateSerializer
    obtype = "devices"
    permissions = {
        "certificates": "read",
        "certificate": "read",
        "bundle": "read",
        "assign": "write",
        "unassign": "write",
        "cas": "read",
        "ca_bundle": "read",
        "trust": "write",
        "distrust": "write",
    }

    @extend_schema(responses=CertificateSerializer(many=True))
    def certificates(self, request: Request, **kwargs: Any) -> Response:
        """List the certificates that are assigned to the device."""
        page = self.paginate_queryset(self.assigned_to(self.get_object())) or []
        return self.get_paginated_response(CertificateSerializer(page, many=True).data)

    def assigned_to(self, device: Device) -> QuerySet[Certificate]:
        rows = Certificate.objects.filter(deployments__device=device, retired_at=None)
        return rows.select_related(
            "account", "current__issuance", "current__account", "current__renewal_info"
        ).order_by("-pk")

    @extend_schema(responses=FullCertificateSerializer)
    def certificate(self, request: Request, certificate_id: int, **kwargs: Any) -> Response:
        found = services.assigned(self.get_object(), certificate_id)
        return Response(FullCertificateSerializer(found).data)

    @extend_schema(request=AssignCertificateRequest, responses={204: None, 202: AttemptSerializer})
    def assign(self, request: Request, **kwargs: Any) -> Response:
        """Assign a certificate to the device.

        The response is 204 when the key is wrapped for it, and 202 when the certificate is issued
        again for it.
        """
        device = self.get_object()
        pk = parsed(AssignCertificateRequest, request)["cert_id"]
        need(request, "certificates", str(pk), "write")
        return assigned(services.assign(certificate_of(self.owner, pk), device))

    @extend_schema(responses={204: None})
    def unassign(self, request: Request, certificate_id: int, **kwargs: Any) -> Response:
        device = self.get_object()
        services.unassign(services.assigned(device, certificate_id), device)
        return Response(status=NO_CONTENT)

    @extend_schema(parameters=[PACK], responses=MaterialsSerializer)
    def bundle(self, request: Request, certificate_id: int, **kwargs: Any) -> Response:
        """Return the key as it is stored, sealed for the device."""
        device = self.get_object()
        data = services.sealed(device, services.assigned(device, certificate_id))
        return delivered(request, data, f"cert-{certificate_id}-device-{device.pk}.json")

    @extend_schema(responses=TrustedCASerializer(many=True))
    def cas(self, request: Request, **kwargs: Any) -> Response:
        """List the private CAs that the device trusts."""
        page = self.paginate_queryset(trusted_cas(self.get_object())) or []
        return self.get_paginated_response(TrustedCASerializer(page, many=True).data)

    @extend_schema(request=TrustRequest, responses={204: None})
    def trust(self, request: Request, **kwargs: Any) -> Response:
        """Let the device trust a private CA."""
        device = self.get_object()
        pk = parsed(TrustRequest, request)["ca_id"]
        need(request, "cas", str(pk), "read")
        services.trust(device, private_ca_of(self.owner, pk))
        return Response(status=NO_CONTENT)

    @extend_schema(responses={204: None})
    def distrust(self, request: Request, ca_id: int, **kwargs: Any) -> Response:
        device = self.get_object()
        services.distrust(device, trusted_ca(device, ca_id))
        return Response(status=NO_CONTENT)

    @extend_schema(parameters=[PACK], responses=TrustedCASerializer)
    def ca_bundle(self, request: Request, ca_id: int, **kwargs: Any) -> Response:
        data = TrustedCASerializer(trusted_ca(self.get_object(), ca_id)).data
        return delivered(request, data, f"ca-{ca_id}.json")


class AssignmentViewSet(OwnedMixin, GenericViewSet[Certificate]):
    """The devices and tags of one certificate. `pk` is the id of the certificate."""

    queryset = Certificate.objects.filter(retired_at=None).select_related("current")
    serializer_class = AssignedDeviceSerializer
    obtype = "certificates"
    permissions = {"devices": "read", "tags": "read", "assign": "write", "unassign": "write"}

    @extend_schema(responses=AssignedDeviceSerializer(many=True))
    def devices(self, request: Request, **kwargs: Any) -> Response:
        """List the devices that the certificate is assigned to, revoked ones too."""
        certificate = self.get_object()
        rows = Device.objects.filter(deployments__certificate=certificate).annotate(
            assigned_at=F("deployments__assigned_at"), by_tag=F("deployments__by_tag")
        )
        page = self.paginate_queryset(rows.prefetch_related("tags").order_by("-pk")) or []
        rows = certificate.deployments.filter(device__in=page).select_related("wanted")
        deployments = {row.device_id: row for row in rows}
        context = {"pending": wraps.pending(certificate), "deployments": deployments}
        shown = AssignedDeviceSerializer(page, many=True, context=context)
        return self.get_paginated_response(shown.data)

    @extend_schema(responses=CertificateTagSerializer(many=True))
    def tags(self, request: Request, **kwargs: Any) -> Response:
        """List the tags that the certificate is assigned to."""
        page = self.paginate_queryset(self.get_object().tags.order_by("-pk")) or []
        return self.get_paginated_response(CertificateTagSerializer(page, many=True).data)

    @extend_schema(request=AssignRequest, responses={204: None, 202: AttemptSerializer})
    def assign(self, request: Request, **kwargs: Any) -> Response:
        """Assign the certificate to a device, or to each device with a tag.

        The response is 204 when the key is wrapped for them, and 202 when the certificate is
        issued again for them.
        """
        certificate, given = self.get_object(), parsed(AssignRequest, request)
        if "tag" in given:
            return assigned(services.assign_to_tag(certificate, given["tag"]))
        return assigned(services.assign(certificate, device_of(self.owner, pk=given["device_id"])))

    @extend_schema(request=AssignRequest, responses={204: None})
    def unassign(self, request: Request, **kwargs: Any) -> Response:
        """Take the certificate from a device, or from the devices that have it by a tag."""
        certificate, given = self.get_object(), parsed(AssignRequest, request)
        if "tag" in given:
            services.unassign_from_tag(certificate, given["tag"])
        else:
            services.unassign(certificate, device_of(self.owner, pk=given["device_id"]))
        return Response(status=NO_CONTENT)


class KeyAssignViewSet(AssignmentViewSet):
    """Assign the certificates that an API key names to a device."""

    permissions = {"create": "write"}

    def object_id(self) -> str | None:
        """Return a certificate that the API key names, because the path names none."""
        return min(map(str, self.named()), default=None)

    def named(self) -> set[int]:
        """Return the ids that the API key names. `*` names none."""
        key = self.request.auth
        obids = key.granted(self.obtype, "write") if isinstance(key, ApiKey) else set()
        return {int(obid) for obid in obids if re.fullmatch(IdConverter.regex, obid)}

    @extend_schema(request=KeyAssignRequest, responses={200: KeyAssignedSerializer})
    def create(self, request: Request, **kwargs: Any) -> Response:
        """Assign each certificate that the API key names to the device."""
        public_id = parsed(KeyAssignRequest, request)["device_public_id"]
        if not self.named():
            raise Invalid(
                _(
                    "The certificates come from the API key. Use one whose permissions name "
                    "the ids of certificates, with the action write."
                )
            )
        device = device_of(self.owner, public_id=public_id)
        found = [certificate_of(self.owner, pk) for pk in sorted(self.named())]
        attempts = [services.assign(each, device) for each in found]
        count = len([each for each in attempts if each])
        what = _(
            "Certificates that are assigned to the device %(device)s: %(count)s.",
            count=len(found),
            device=device,
        )
        if count:
            what = _("%(what)s Of these, issued again for it: %(count)s.", what=what, count=count)
        return Response({"status": "pending" if count else "assigned", "message": str(what)})
