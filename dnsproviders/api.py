"""The endpoints of DNS credentials (`docs/reference/api.md`). No answer contains a secret."""

from collections.abc import Mapping
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.mixins import ListModelMixin, RetrieveModelMixin
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from certctrl import outward
from certctrl.api import CountedThrottle, EpochSeconds, OwnedMixin, PublicView, parsed
from dnsproviders import credentials, registry
from dnsproviders.models import DnsCredential


class DnsCredentialSerializer(serializers.ModelSerializer[DnsCredential]):
    """A credential as its owner sees it: the common fields and the provider's public fields."""

    created_at = EpochSeconds()
    checked_at = EpochSeconds(allow_null=True)
    note = serializers.SerializerMethodField(help_text="a warning for a person")

    class Meta:
        model = DnsCredential
        fields = (
            "id",
            "provider",
            "name",
            "ttl",
            "propagation_check",
            "propagation_timeout",
            "settle",
            "checked_at",
            "last_error",
            "created_at",
            "note",
        )
        read_only_fields = fields

    def get_note(self, credential: DnsCredential) -> str:
        if disabled := credential.disabled:
            return str(registry.what_is_disabled(disabled))
        return str(registry.provider_class(credential.provider).note(credential.public))

    def to_representation(self, credential: DnsCredential) -> dict[str, Any]:
        shown: dict[str, Any] = super().to_representation(credential)
        public: dict[str, Any] = {"zone_id": ""} | credential.public
        return public | shown


class DnsCredentialRequest(serializers.Serializer[Any]):
    """`provider` and the fields that the catalogue lists for it."""

    provider = serializers.CharField(help_text="an id of /apiv1/dns/providers/catalog")
    name = serializers.CharField(required=False)
    ttl = serializers.IntegerField(required=False, help_text="seconds")
    propagation_check = serializers.ChoiceField(
        DnsCredential.PropagationCheck.choices, required=False
    )
    propagation_timeout = serializers.IntegerField(required=False, help_text="seconds")
    settle = serializers.IntegerField(required=False, help_text="seconds")


def writable(credential: DnsCredential, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members that may change, without the read-only ones.

    A client can then send the whole answer of a GET back.
    """
    fields = {field.name for field in registry.provider_class(credential.provider).fields}
    shown_only = {"id", "created_at", "checked_at", "last_error", "note"} - fields
    if "zone_id" not in fields and data.get("zone_id") == "":
        shown_only.add("zone_id")
    return {name: value for name, value in data.items() if name not in shown_only}


class CheckRequest(serializers.Serializer[Any]):
    name = serializers.CharField(
        default="",
        max_length=253,
        allow_blank=True,
        help_text="where a TXT record is written and removed, for example www.example.com",
    )


class CallSerializer(serializers.Serializer[Any]):
    """A call to the provider."""

    method = serializers.CharField()
    url = serializers.CharField()
    answer = serializers.CharField(
        help_text="the HTTP status, the RCODE of a name server, or why there was no response"
    )


class CheckedCredentialSerializer(DnsCredentialSerializer):
    calls = CallSerializer(many=True)

    class Meta(DnsCredentialSerializer.Meta):
        fields = (*DnsCredentialSerializer.Meta.fields, "calls")  # type: ignore[assignment]


class CredentialCheckThrottle(CountedThrottle):
    scope = "dns_check"
    rate = "60/hour"


class DnsCredentialViewSet(
    OwnedMixin, ListModelMixin, RetrieveModelMixin, GenericViewSet[DnsCredential]
):
    queryset = DnsCredential.objects.filter(retired_at=None).select_related("disablement")
    serializer_class = DnsCredentialSerializer
    obtype = "dns_providers"
    permissions = {
        "list": "read",
        "retrieve": "read",
        "create": "write",
        "update": "write",
        "partial_update": "write",
        "destroy": "write",
        "check": "write",
    }

    @extend_schema(request=DnsCredentialRequest, responses={201: DnsCredentialSerializer})
    def create(self, request: Request, **kwargs: Any) -> Response:
        credential = credentials.create_credential(self.owner, dict(request.data))
        return Response(self.get_serializer(credential).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=DnsCredentialRequest, responses=DnsCredentialSerializer)
    def update(self, request: Request, **kwargs: Any) -> Response:
        credential = self.get_object()
        credential = credentials.update_credential(
            credential, writable(credential, dict(request.data))
        )
        return Response(self.get_serializer(credential).data)

    @extend_schema(request=DnsCredentialRequest, responses=DnsCredentialSerializer)
    def partial_update(self, request: Request, **kwargs: Any) -> Response:
        return self.update(request, **kwargs)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, **kwargs: Any) -> Response:
        credentials.retire_credential(self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=CheckRequest, responses=CheckedCredentialSerializer)
    @action(detail=True, methods=["post"], throttle_classes=[CredentialCheckThrottle])
    def check(self, request: Request, **kwargs: Any) -> Response:
        """Check that the provider accepts the credential.

        With `name`, a TXT record of that name is written and removed. Without it, the check only
        reads. The answer is 429 when the provider's API limit is used up, or after too many checks.
        """
        credential = self.get_object()
        name = parsed(CheckRequest, request)["name"]
        with outward.for_owner(self.owner.pk):
            calls = credentials.check_credential(credential, name)
        shown = {"calls": CallSerializer(calls, many=True).data}
        return Response(self.get_serializer(credential).data | shown)


class CatalogView(PublicView):
    """List the DNS providers, each with its fields.

    `disabled_at` is when the operator disabled the provider, else null. `note` says why.
    """

    @extend_schema(responses={200: serializers.ListSerializer(child=serializers.DictField())})
    def get(self, request: Request) -> Response:
        return Response(registry.catalog())
