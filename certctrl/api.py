"""Parts that all API views share: rows of one owner, grants of API keys, and both path prefixes.

The {"data"} envelope, strict JSON and paging are in certctrl.formats. The error shape is in
certctrl.errorshape.

Declare a viewset of owned rows like this. Register it once for both prefixes:

    class CertificateViewSet(OwnedMixin, ListModelMixin, GenericViewSet[Certificate]):
        queryset = Certificate.objects.all()
        serializer_class = CertificateSerializer
        obtype = "certificates"  # one of accounts.permissions.PERMISSIONS
        permissions = {"list": "read", "renew": "issue"}  # the grant that each action needs

        @action(detail=True, methods=["post"])
        def renew(self, request: Request, **kwargs: Any) -> Response:
            attempt = services.request_issuance(self.get_object(), ...)
            return Response(AttemptSerializer(attempt).data)

    router = OwnedRouter()
    router.register("certificates", CertificateViewSet)
    router.register("acme-accounts/<id:acme_account_id>/certificates", CertificateOfAccountViewSet)
    urlpatterns = router.urls  # included below apiv1/

An action that is not in `permissions` is closed to API keys. `session_only = True` closes the whole
view to API keys. It also marks the view as complete for the test that finds missing declarations.
`obtype` is the type of the rows that the view's `pk` names.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import structlog
from django.conf import settings
from django.db.models import Model, QuerySet
from django.http import Http404
from django.urls import path, register_converter
from django.urls.converters import StringConverter
from django.utils.translation import gettext_lazy
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers, status
from rest_framework.generics import GenericAPIView
from rest_framework.permissions import SAFE_METHODS, AllowAny
from rest_framework.request import Request
from rest_framework.routers import SimpleRouter
from rest_framework.throttling import UserRateThrottle
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSetMixin

from certctrl import errors
from certctrl.jsonbody import printable
from certctrl.sentences import sentence as _

log = structlog.get_logger()


@extend_schema_field(OpenApiTypes.INT64)
class EpochSeconds(serializers.Field[datetime, Any, int, Any]):
    """A moment as whole seconds since 1970, read only. For certificates, accounts and keys.

    See docs/reference/api.md.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"read_only": True} | kwargs)

    def to_representation(self, value: datetime) -> int:
        return int(value.timestamp())


@extend_schema_field(OpenApiTypes.INT64)
class EpochMillis(EpochSeconds):
    """A moment as milliseconds since 1970, read only. For devices, CAs and issue histories.

    See docs/reference/api.md.
    """

    def to_representation(self, value: datetime) -> int:
        return int(value.timestamp() * 1000)


class OneOf(serializers.ChoiceField):
    """A choice field whose errors list the choices."""

    default_error_messages = {
        "invalid_choice": gettext_lazy('There is no "{input}". Give one of {known}.'),
        "null": gettext_lazy("This may not be null. Give one of {known}."),
    }

    def fail(self, key: str, **kwargs: Any) -> NoReturn:
        given = kwargs.pop("input", "")
        shown = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        kwargs["input"] = printable(shown)
        super().fail(key, known=", ".join(map(str, self.choices)), **kwargs)


class IdConverter:
    """A row's id in a path, small enough for a database column."""

    regex = "[1-9][0-9]{0,17}"

    def to_python(self, value: str) -> int:
        return int(value)

    def to_url(self, value: int) -> str:
        return str(value)


class UserIdConverter(StringConverter):
    """A user id in a path: any digits.

    OwnedMixin compares the id with the caller after authentication.
    """

    regex = "[0-9]+"


register_converter(IdConverter, "id")
register_converter(UserIdConverter, "user")


def refuse_nul(request: Request) -> None:
    """Raise Invalid for a NUL in the path or the query, because PostgreSQL stores none."""
    what = _("The path or the query has a NUL character (%00). Remove it.")
    if "\0" in request.path:
        raise errors.Invalid(what)
    for name, values in request.query_params.lists():
        if any("\0" in text for text in (name, *values)):
            raise errors.Invalid(what, field=printable(name))


def refuse_broken_body(request: Request) -> None:
    """Read the body of an unsafe request before the view acts. Call this in `initial()`.

    The body is read even when the view does not need it, so that a broken body is always refused.
    Raise NotJSON, and the errors that certctrl.formats.JSONParser raises.
    """
    if request.method not in SAFE_METHODS:
        _ = request.data


class PublicView(APIView):
    """Needs no authentication. Credentials are ignored."""

    authentication_classes = []
    permission_classes = [AllowAny]
    metadata_class = None


class CountedThrottle(UserRateThrottle):
    """A limit on requests per user. Set `scope` and `rate`, for example "60/hour".

    The count is in the cache. When the cache is away, every request is allowed.
    """

    def allow_request(self, request: Request, view: Any) -> bool:
        try:
            return super().allow_request(request, view)
        except Exception as exc:  # any error of the cache's client
            log.warning("throttle.uncounted", scope=self.scope, error=type(exc).__name__)
            return True


class OwnedMixin(GenericAPIView[Any]):
    """Rows of the caller, at /apiv1/users/{user_id}/ and at /apiv1/me/.

    `user_id` must be the caller's own id. A row of another owner is 404. Lists are sorted by id,
    newest first. For an API key they contain only the granted rows.
    """

    lookup_value_converter = "id"
    metadata_class = None
    owner_field = "owner"
    session_only = False
    obtype = ""
    permissions: Mapping[str, str | None] = {}
    # The `obtype` of an action whose grant is on another type.
    other_obtypes: Mapping[str, str] = {}

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        refuse_nul(request)
        super().initial(request, *args, **kwargs)
        own = str(request.user.pk)
        if kwargs.get("user_id", own) != own:
            asked = printable(kwargs["user_id"])
            raise errors.Forbidden(
                _(
                    "User %(asked)s is another user. Use your own id, %(own)s, or "
                    "%(url_prefix)s/apiv1/me/.",
                    asked=asked,
                    own=own,
                    url_prefix=settings.URL_PREFIX,
                )
            )
        refuse_broken_body(request)

    @property
    def owner(self) -> Any:
        """Return the user who owns these rows, which is the caller."""
        return self.request.user

    def needed_action(self) -> str | None:
        """Return the grant on `obtype` that an API key needs for this request.

        Return None when the view is closed to API keys.
        """
        if self.session_only:
            return None
        return self.permissions.get(
            getattr(self, "action", None) or str(self.request.method).lower()
        )

    def needed_obtype(self) -> str:
        return self.other_obtypes.get(getattr(self, "action", None) or "", self.obtype)

    def object_id(self) -> str | None:
        """Return the id of the `obtype` row in the path, or None for a list or a create."""
        pk = self.kwargs.get(self.lookup_url_kwarg or self.lookup_field)
        return None if pk is None else str(pk)

    def granted_ids(self) -> set[int] | None:
        """Return the ids that were granted to the API key, or None for all rows of the owner."""
        key: Any = self.request.auth
        if key is None:
            return None
        obids: set[str] = key.granted(self.obtype, self.needed_action() or "")
        if "*" in obids:
            return None
        return {int(obid) for obid in obids if re.fullmatch(IdConverter.regex, obid)}

    def get_queryset(self) -> QuerySet[Model]:
        rows = super().get_queryset()
        if getattr(self, "swagger_fake_view", False):
            return rows.none()
        rows = rows.filter(**{self.owner_field: self.owner}).order_by("-pk")
        granted = self.granted_ids()
        return rows if granted is None else rows.filter(pk__in=granted)

    def get_object(self) -> Any:
        try:
            return super().get_object()
        except Http404:
            name = self.get_queryset().model._meta.verbose_name
            raise errors.NotFound(
                _(
                    "You have no %(name)s %(object_id)s. Check the id.",
                    name=str(name),
                    object_id=self.object_id(),
                )
            ) from None


class OwnedRouter(SimpleRouter):
    """Registers a viewset at `users/<user:user_id>/<prefix>` and at `me/<prefix>`.

    The paths have no trailing slash. A prefix, and the `url_path` of an action, may contain path
    converters, for example `acme-accounts/<id:acme_account_id>/certificates`.
    """

    def __init__(self) -> None:
        super().__init__(trailing_slash=False, use_regex_path=False)

    def register(
        self, prefix: str, viewset: type[ViewSetMixin], basename: str | None = None
    ) -> None:
        name = basename or prefix
        super().register(f"users/<user:user_id>/{prefix}", viewset, f"users-{name}")
        super().register(f"me/{prefix}", viewset, f"me-{name}")


def owned_paths(
    prefix: str, viewset: type[ViewSetMixin], actions: Mapping[str, str]
) -> Sequence[Any]:
    """Return both paths of a viewset that no router fits.

    Example: `owned_paths("certificate-assign", V, {"post": "create"})`.
    """
    view = viewset.as_view(dict(actions))
    return [path(f"users/<user:user_id>/{prefix}", view), path(f"me/{prefix}", view)]


NO_CONTENT = status.HTTP_204_NO_CONTENT
CREATED = status.HTTP_201_CREATED


# Kept, because making the fields of a serializer costs more than using them.
_serializers: dict[tuple[type[Any], bool], Any] = {}


def parsed(kind: type[Any], request: Request, *, partial: bool = False) -> dict[str, Any]:
    if (kind, partial) not in _serializers:
        _serializers[kind, partial] = kind(partial=partial)
    return dict(_serializers[kind, partial].run_validation(request.data))
