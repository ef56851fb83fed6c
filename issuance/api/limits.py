"""The API of rate limits: what is left at the CA of an account."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from authorities.catalog import LimitKind
from authorities.models import AcmeAccount
from certctrl.api import EpochSeconds, OwnedMixin
from certctrl.errors import Forbidden
from certctrl.sentences import sentence as _
from issuance import ratelimits


class LimitSerializer(serializers.Serializer[Any]):
    """A token bucket of a CA's rate limit."""

    ca = serializers.CharField(help_text="the CA that counts")
    kind = serializers.ChoiceField(LimitKind.choices)
    subject = serializers.CharField(help_text="the account, domain, names or name that is counted")
    capacity = serializers.FloatField(
        allow_null=True, help_text="tokens; null when the CA's limit is not known"
    )
    seconds_for_one = serializers.FloatField(allow_null=True)
    left = serializers.FloatField(
        allow_null=True, help_text="tokens now; null when there is no limit"
    )
    waiting = serializers.IntegerField(help_text="orders that wait for a token")
    next_at = EpochSeconds(help_text="time of the next free token")


class AccountLimitsViewSet(OwnedMixin, GenericViewSet[AcmeAccount]):
    queryset = AcmeAccount.objects.filter(retired_at=None)
    obtype = "acme_accounts"
    permissions = {"limits": "read"}

    @extend_schema(responses=LimitSerializer(many=True))
    def limits(self, request: Request, **kwargs: Any) -> Response:
        """List the CA's rate limits with the tokens that are left.

        The list has the limits of the account, and of the domains, sets of names and names that it
        ordered.
        """
        return Response(LimitSerializer(ratelimits.levels(self.get_object()), many=True).data)


class LimitsViewSet(OwnedMixin, GenericViewSet[AcmeAccount]):
    queryset = AcmeAccount.objects.none()
    pagination_class = None
    obtype = "acme_accounts"
    permissions = {"list": "read"}

    @extend_schema(responses=LimitSerializer(many=True))
    def list(self, request: Request, **kwargs: Any) -> Response:
        """List the limits of all your accounts, the scarcest first. A key needs `read` on all.

        Of domains and names, the list has those that a certificate waits for.
        """
        if self.granted_ids() is not None:
            raise Forbidden(_("This API key may read only some accounts. Use a key for all."))
        return Response(LimitSerializer(ratelimits.scarce(self.owner), many=True).data)
