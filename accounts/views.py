"""Views of API keys, quotas and the permission catalog, see `docs/reference/api.md`."""

from typing import Any

from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework.mixins import ListModelMixin, RetrieveModelMixin
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet

from accounts import audit, quotas, savedviews, services
from accounts.authentication import JSONSessionAuthentication
from accounts.models import ApiKey, SavedView, User
from accounts.permissions import PERMISSIONS
from accounts.serializers import (
    ApiKeyRequest,
    ApiKeySerializer,
    NewApiKeySerializer,
    QuotaSerializer,
    SavedViewSerializer,
    ScopeSerializer,
)
from certctrl.api import (
    CREATED,
    NO_CONTENT,
    OwnedMixin,
    PublicView,
    parsed,
    refuse_broken_body,
    refuse_nul,
)


class SessionView(APIView):
    """Base of views below /auth. They accept sessions only. API keys are ignored."""

    authentication_classes = [JSONSessionAuthentication]
    metadata_class = None
    session_only = True

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        refuse_nul(request)
        super().initial(request, *args, **kwargs)
        refuse_broken_body(request)


class ApiKeyViewSet(OwnedMixin, ListModelMixin, RetrieveModelMixin, GenericViewSet[ApiKey]):
    """Create, read and revoke API keys. This needs a session, because a key cannot create keys."""

    queryset = ApiKey.objects.filter(revoked_at=None)
    serializer_class = ApiKeySerializer
    session_only = True

    @extend_schema(request=ApiKeyRequest, responses={201: NewApiKeySerializer})
    def create(self, request: Request, **kwargs: Any) -> Response:
        body = ApiKeyRequest(data=request.data)
        body.is_valid(raise_exception=True)
        services.refuse_old_login(request, settings.EXPORT_LOGIN_AGE)
        key, token = services.create_api_key(
            self.owner, **body.validated_data, ip=audit.ip_of(request)
        )
        once = {"token": token, "expires_in_seconds": body.validated_data["expires_in_seconds"]}
        return Response(ApiKeySerializer(key).data | once, status=201)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, **kwargs: Any) -> Response:
        services.revoke_api_key(self.get_object())
        return Response(status=204)


class SavedViewViewSet(OwnedMixin, ListModelMixin, RetrieveModelMixin, GenericViewSet[SavedView]):
    """The lists of certificates that you named on the pages. They need a session."""

    queryset = SavedView.objects.all()
    serializer_class = SavedViewSerializer
    session_only = True

    @extend_schema(request=SavedViewSerializer, responses={201: SavedViewSerializer})
    def create(self, request: Request, **kwargs: Any) -> Response:
        """Save a view. A view of the same name is replaced."""
        given = parsed(SavedViewSerializer, request)
        view = savedviews.save(self.owner, given["name"], given["query"])
        return Response(SavedViewSerializer(view).data, status=CREATED)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, **kwargs: Any) -> Response:
        self.get_object().delete()
        return Response(status=NO_CONTENT)


class QuotaViewSet(OwnedMixin, GenericViewSet[User]):
    queryset = User.objects.none()
    serializer_class = QuotaSerializer
    pagination_class = None
    obtype = "quotas"
    permissions = {"list": "read"}

    @extend_schema(responses=QuotaSerializer(many=True))
    def list(self, request: Request, **kwargs: Any) -> Response:
        """Return how many objects of each kind you have, and your limits. Staff can raise them."""
        return Response(QuotaSerializer(quotas.usage(self.owner), many=True).data)


class PermissionsCatalog(PublicView):
    """Return the permissions that an API key may have."""

    @extend_schema(responses={200: ScopeSerializer(many=True)})
    def get(self, request: Request) -> Response:
        return Response(
            [
                {"obtype": obtype, "actions": list(actions), "description": str(description)}
                for obtype, (description, actions) in PERMISSIONS.items()
            ]
        )
