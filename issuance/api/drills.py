"""The API of drills, for staff: replace everything that an issuer, or an account, issued."""

from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.mixins import ListModelMixin, RetrieveModelMixin
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from accounts import audit
from authorities.models import AcmeAccount
from certctrl.api import EpochSeconds, refuse_broken_body
from certctrl.errors import Forbidden, NotFound
from certctrl.sentences import sentence as _
from issuance import drills
from issuance.models import Drill

MOST_NAMED = 100


class DrillRequest(serializers.Serializer[Any]):
    """A drill to start. Give either `issuer` or `acme_account_id`."""

    issuer = serializers.CharField(
        required=False, allow_blank=True, max_length=255, help_text="a common name"
    )
    acme_account_id = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=2**62
    )
    why = serializers.CharField(required=False, allow_blank=True, max_length=255)


class DrillSerializer(serializers.ModelSerializer[Drill]):
    by = serializers.CharField(source="by.email", read_only=True)
    acme_account_id = serializers.IntegerField(source="account_id", read_only=True, allow_null=True)
    status = serializers.ChoiceField(["running", "stopped", "ended"], read_only=True)
    created_at = EpochSeconds()
    stopped_at = EpochSeconds(allow_null=True)
    ended_at = EpochSeconds(allow_null=True)

    class Meta:
        model = Drill
        fields: tuple[str, ...] = (
            "id",
            "issuer",
            "acme_account_id",
            "why",
            "by",
            "status",
            "total",
            "created_at",
            "stopped_at",
            "ended_at",
        )
        read_only_fields = fields


class CountSerializer(serializers.Serializer[Any]):
    total = serializers.IntegerField(help_text="certificates to replace at the start")
    left = serializers.IntegerField(help_text="certificates that are left; 0 at the end")
    skipped = serializers.IntegerField(
        help_text="certificates whose renewal is switched off; notify their owners"
    )
    failing = serializers.IntegerField(
        help_text="of those left: the last attempt failed, and is retried"
    )


class SkippedSerializer(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    domain = serializers.CharField()
    owner = serializers.CharField(source="owner.email")


class CountedDrillSerializer(DrillSerializer):
    """A drill with its count, and the first hundred certificates that it skips."""

    count = serializers.SerializerMethodField()
    skipped = serializers.SerializerMethodField()

    class Meta(DrillSerializer.Meta):
        fields = (*DrillSerializer.Meta.fields, "count", "skipped")

    @extend_schema_field(CountSerializer)
    def get_count(self, drill: Drill) -> dict[str, int]:
        return drills.count(drill)

    @extend_schema_field(SkippedSerializer(many=True))
    def get_skipped(self, drill: Drill) -> Any:
        return SkippedSerializer(
            drills.skipped(drill).select_related("owner")[:MOST_NAMED], many=True
        ).data


class DrillViewSet(ListModelMixin, RetrieveModelMixin, GenericViewSet[Drill]):
    """Drills replace the certificates of every owner.

    They need the session of a member of staff. API keys are refused.
    """

    queryset = Drill.objects.select_related("by", "account").order_by("-pk")
    serializer_class = DrillSerializer
    lookup_value_converter = "id"
    metadata_class = None
    session_only = True
    obtype = ""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if not request.user.is_staff:
            raise Forbidden(_("Only staff of this server may see or start drills."))
        refuse_broken_body(request)

    @extend_schema(request=DrillRequest, responses={201: CountedDrillSerializer})
    def create(self, request: Request) -> Response:
        """Start a drill: replace everything that this issuer, or this account, issued.

        The response is 409 while such a drill runs.
        """
        body = DrillRequest(data=request.data)
        body.is_valid(raise_exception=True)
        given = body.validated_data
        account = account_of(given.get("acme_account_id"))
        drill = drills.start(
            self.person(request),
            given.get("issuer", ""),
            account,
            given.get("why", ""),
            ip=audit.ip_of(request),
        )
        return Response(CountedDrillSerializer(drill).data, status=status.HTTP_201_CREATED)

    @extend_schema(responses=CountedDrillSerializer)
    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Return the drill with its count."""
        return Response(CountedDrillSerializer(self.get_object()).data)

    @extend_schema(request=None, responses=CountedDrillSerializer)
    @action(detail=True, methods=["post"])
    def stop(self, request: Request, **kwargs: Any) -> Response:
        """Stop the drill: no more certificates are renewed early. Open renewals continue."""
        drill = drills.stop(self.get_object(), self.person(request), ip=audit.ip_of(request))
        return Response(CountedDrillSerializer(drill).data)

    @extend_schema(request=None, responses=CountedDrillSerializer)
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, **kwargs: Any) -> Response:
        """Resume a drill that was stopped."""
        drill = drills.resume(self.get_object(), self.person(request), ip=audit.ip_of(request))
        return Response(CountedDrillSerializer(drill).data)

    def person(self, request: Request) -> Any:
        return request.user


def account_of(pk: int | None) -> AcmeAccount | None:
    """Return the account of any owner, or None without `pk`. Raise NotFound."""
    account = AcmeAccount.objects.filter(pk=pk).first() if pk else None
    if pk and not account:
        raise NotFound(
            _("There is no ACME account %(pk)s. Check the id.", pk=pk), field="acme_account_id"
        )
    return account
