"""The API of many certificates: the filters of lists, labels, and bulk actions."""

from collections.abc import Mapping
from typing import Any, cast

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from accounts import audit
from accounts.permissions import need
from certctrl.api import OneOf, OwnedMixin, parsed
from certctrl.errors import Forbidden, Invalid, MissingField
from certctrl.jsonbody import printable
from certctrl.sentences import sentence as _
from issuance import services
from issuance.api.parsing import IDEMPOTENCY_KEY, idempotency
from issuance.models import Certificate
from issuance.services import Filter
from keystore.models import Envelope

BULK_ACTIONS = {  # the permission that each needs
    "renew": "issue",
    "revoke": "issue",
    "renewal_on": "write",
    "renewal_off": "write",
    "label": "write",
    "unlabel": "write",
}
CONDITIONS = ("you", "again", "open", "soon", "expired", "new", "off", "revoked")


class FilterParameters(serializers.Serializer[Any]):
    """Which certificates a list has. Each member that is given narrows it."""

    q = serializers.CharField(
        required=False,
        max_length=300,
        help_text="the beginning of a name or of one of its labels, or a serial number",
    )
    condition = OneOf(
        CONDITIONS,
        required=False,
        help_text="you: a person must act; again: it is tried again; open: an attempt is open;"
        " soon: it ends within 30 days; off: renewal is off; expired, new, revoked",
    )
    acct_id = serializers.IntegerField(required=False, min_value=1, max_value=2**62)
    dns_provider_id = serializers.IntegerField(required=False, min_value=1, max_value=2**62)
    ca_provider = serializers.CharField(required=False, max_length=32)
    key_dist_policy = OneOf(Envelope.Policy.choices, required=False)
    label = serializers.CharField(required=False, max_length=64)  # type: ignore[assignment]
    ends_before = serializers.DateField(required=False, help_text="a day in UTC")


def filter_of(parameters: Mapping[str, Any]) -> Filter:
    """Return the filter. Empty parameters and unknown ones are ignored. Raise Invalid."""
    names = map(str, FilterParameters().fields)
    known = {name: parameters[name] for name in names if parameters.get(name)}
    given = FilterParameters().run_validation(known)
    return Filter(
        words=given.get("q", ""),
        condition=given.get("condition", ""),
        account=given.get("acct_id"),
        credential=given.get("dns_provider_id"),
        ca_provider=given.get("ca_provider", ""),
        key_policy=given.get("key_dist_policy", ""),
        label=given.get("label", ""),
        ends_before=given.get("ends_before"),
    )


def refuse_unknown(sent: Any) -> None:
    """Raise Invalid for a filter with an unknown member. Without it, every certificate passes."""
    known = FilterParameters().fields
    if unknown := set(sent or ()) - set(known):
        raise Invalid(
            _(
                "A filter has no member %(unknown)s. Use %(known)s.",
                unknown=printable(min(unknown)),
                known=", ".join(known),
            ),
            field="filter",
        )


class LabelsRequest(serializers.Serializer[Any]):
    labels = serializers.ListField(
        child=serializers.CharField(max_length=200), max_length=100, help_text="20 at most"
    )


class LabelsSerializer(serializers.Serializer[Any]):
    labels = serializers.ListField(child=serializers.CharField())


class LabelViewSet(OwnedMixin, GenericViewSet[Certificate]):
    queryset = Certificate.objects.filter(retired_at=None)
    serializer_class = LabelsSerializer
    pagination_class = None
    obtype = "certificates"
    permissions = {"list": "read", "update": "write"}

    @extend_schema(responses=LabelsSerializer)
    def list(self, request: Request, **kwargs: Any) -> Response:
        """List the labels that you gave to certificates. A key needs `read` on all."""
        if self.granted_ids() is not None:
            raise Forbidden(_("This API key may read only some certificates. Use a key for all."))
        return Response({"labels": services.labels_of(self.owner)})

    @extend_schema(request=LabelsRequest, responses=LabelsSerializer)
    def update(self, request: Request, **kwargs: Any) -> Response:
        """Give the certificate these labels and no others."""
        given = parsed(LabelsRequest, request)
        return Response({"labels": services.set_labels(self.get_object(), given["labels"])})


class BulkRequest(serializers.Serializer[Any]):
    """An action on many certificates: those of `ids`, or those of `filter`."""

    action = OneOf(tuple(BULK_ACTIONS))
    ids = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=2**62),
        required=False,
        min_length=1,
        max_length=500,
    )
    filter = FilterParameters(required=False)
    dry_run = serializers.BooleanField(default=False, help_text="only say what would be done")
    reason = serializers.JSONField(required=False, help_text="of `revoke`: RFC 5280")
    label = serializers.CharField(  # type: ignore[assignment]
        required=False, max_length=200, help_text="of `label` and `unlabel`"
    )


class ResultSerializer(serializers.Serializer[Any]):
    """The result for one certificate. In a dry run it is what would happen."""

    id = serializers.IntegerField()
    domain = serializers.CharField()
    outcome = serializers.ChoiceField(["done", "unchanged", "refused"])
    what = serializers.CharField(help_text="a sentence")


class BulkResponse(serializers.Serializer[Any]):
    dry_run = serializers.BooleanField()
    results = ResultSerializer(many=True)


class BulkViewSet(OwnedMixin, GenericViewSet[Certificate]):
    queryset = Certificate.objects.filter(retired_at=None)
    serializer_class = BulkResponse
    pagination_class = None
    obtype = "certificates"
    permissions = {"create": "read"}  # and what BULK_ACTIONS says

    @extend_schema(request=BulkRequest, parameters=[IDEMPOTENCY_KEY], responses={200: BulkResponse})
    def create(self, request: Request, **kwargs: Any) -> Response:
        """Renew, revoke, or switch or label many certificates, at most 500.

        With `dry_run`, nothing is done. A refused certificate stops no other. A renewal becomes
        due, and starts as the limits of the CA allow.
        """
        given = parsed(BulkRequest, request)
        sent: Any = request.data
        refuse_unknown(sent.get("filter"))
        if ("ids" in given) == ("filter" in given):
            raise MissingField(_("Give either ids or filter."), field="ids")
        need(request, self.obtype, None, BULK_ACTIONS[given["action"]])
        action = services.action_of(
            given["action"],
            reason=given.get("reason"),
            label=given.get("label", ""),
            actor=audit.actor_of(request),
            ip=audit.ip_of(request),
        )
        rows = cast("QuerySet[Certificate]", self.get_queryset())
        if "filter" in given:
            rows = services.found(rows, self.owner, filter_of(given["filter"]))
        if given["dry_run"]:
            results = services.dry_run(action, services.chosen(rows, given.get("ids")))
        else:
            results = services.act(
                self.owner,
                action,
                lambda: services.chosen(rows, given.get("ids")),
                idempotency(request),
            )
        answer = {"dry_run": given["dry_run"], "results": results}
        return Response(BulkResponse(answer).data)
