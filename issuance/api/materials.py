"""The API of devices, which read their certificates and keys, and the private CAs that they trust.

See docs/reference/devices.md.
"""

import base64
from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import audit
from authorities import pki
from authorities.api import PrivateCASerializer
from authorities.models import PrivateCA
from certctrl.errors import NotFound
from certctrl.sentences import sentence as _
from devices.api import DeviceEndpoint
from devices.models import Device
from issuance import rollout, services
from issuance.api.certificates import FullCertificateSerializer

PACK = OpenApiParameter(
    "pack", str, enum=["download"], description="adds a Content-Disposition with a file name"
)


class MaterialsSerializer(serializers.Serializer[Any]):
    """A key that is sealed for the device (aes256gcm), or in plaintext."""

    enc_scheme = serializers.ChoiceField(["aes256gcm", "plaintext"])
    wrap_alg = serializers.CharField(required=False)
    device_keyfp_b64 = serializers.CharField(required=False)
    enc_data_key_b64 = serializers.CharField(required=False)
    enc_privkey_b64 = serializers.CharField(required=False)
    privkey_nonce_b64 = serializers.CharField(required=False)
    privkey_tag_b64 = serializers.CharField(required=False)
    private_key_der_b64 = serializers.CharField(required=False)
    certificate_pem = serializers.CharField(required=False)


class TrustedCASerializer(PrivateCASerializer):
    """A private CA for the trust store of a device."""

    ca_certificate_der_b64 = serializers.SerializerMethodField()

    class Meta(PrivateCASerializer.Meta):
        fields = (  # type: ignore[assignment]
            "id",
            "name",
            "serial_number",
            "status",
            "algorithm",
            "key_size",
            "valid_days",
            "ca_certificate_pem",
            "ca_certificate_der_b64",
        )

    def get_ca_certificate_der_b64(self, private_ca: PrivateCA) -> str:
        return base64.b64encode(pki.to_der(private_ca.certificate_pem)).decode()


def delivered(request: Request, data: Any, name: str) -> Response:
    """Return the response with a key or a CA. No cache stores it."""
    response = Response(data, headers={"Cache-Control": "no-store"})
    if request.query_params.get("pack") == "download":
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def trusted_cas(device: Device) -> QuerySet[PrivateCA]:
    return PrivateCA.objects.filter(
        trusting_devices__device=device, status=PrivateCA.Status.ACTIVE
    ).order_by("-pk")


def trusted_ca(device: Device, pk: int) -> PrivateCA:
    row = trusted_cas(device).filter(pk=pk).first()
    if row is None:
        raise NotFound(
            _(
                "The device %(device)s does not trust a private CA %(pk)s. Check the id.",
                device=device,
                pk=pk,
            )
        )
    return row


class OwnCertificateView(DeviceEndpoint):
    @extend_schema(responses=FullCertificateSerializer)
    def get(self, request: Request, certificate_id: int) -> Response:
        """Return a certificate that is assigned to the device, with its chain."""
        certificate = services.assigned(self.device, certificate_id)
        services.version_of(certificate)
        return Response(FullCertificateSerializer(certificate).data)


class MaterialsView(DeviceEndpoint):
    @extend_schema(parameters=[PACK], responses=MaterialsSerializer)
    def get(self, request: Request, certificate_id: int) -> Response:
        """Return the key of a certificate: sealed for the device, or in plaintext."""
        device = self.device
        certificate = services.assigned(device, certificate_id)
        data = services.for_device(
            device,
            certificate,
            actor=f"device {device.public_id}",
            ip=audit.ip_of(request),
        )
        rollout.note_fetched(device, services.version_of(certificate))
        return delivered(request, data, f"cert-{certificate_id}-device-{device.pk}.json")


class OwnCAView(DeviceEndpoint):
    @extend_schema(parameters=[PACK], responses=TrustedCASerializer)
    def get(self, request: Request, ca_id: int) -> Response:
        """Return a private CA that the device trusts."""
        data = TrustedCASerializer(trusted_ca(self.device, ca_id)).data
        return delivered(request, data, f"ca-{ca_id}.json")
