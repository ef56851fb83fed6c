"""The API of devices and their owners, see docs/reference/devices.md."""

import json
from typing import Any

from django.conf import settings
from drf_spectacular.utils import OpenApiParameter, PolymorphicProxySerializer, extend_schema
from rest_framework.mixins import ListModelMixin, RetrieveModelMixin
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet

from accounts import audit
from accounts.models import ApiKey, User
from accounts.services import refuse_old_login
from accounts.views import SessionView
from certctrl import errors
from certctrl.api import CREATED, NO_CONTENT, OwnedMixin, PublicView, parsed
from certctrl.jsonbody import printable
from certctrl.sentences import sentence as _
from devices import codes, longpoll, registration, services, signals, tokens
from devices.authentication import DeviceAuthentication, IsDevice
from devices.models import Device, EnrolmentKey
from devices.registration import Enrolled
from devices.serializers import (
    DecidedSerializer,
    DeviceChange,
    DeviceSerializer,
    EnrolledSerializer,
    EnrolmentKeyRequest,
    EnrolmentKeySerializer,
    EnrolRequest,
    GrantStartedSerializer,
    NewEnrolmentKeySerializer,
    OwnEnrolRequest,
    PolledSerializer,
    PollRequest,
    RefreshedSerializer,
    RefreshRequest,
    RegistrationRequest,
    StartRequest,
    UpdatesQuery,
    UpdatesSerializer,
    VerifyRequest,
)
from devices.throttles import DeviceStartThrottle, DeviceVerifyThrottle

ENROLLED = {201: EnrolledSerializer, 200: EnrolledSerializer}
THROTTLES: dict[str, type[BaseThrottle]] = {
    "device_start": DeviceStartThrottle,
    "device_verify": DeviceVerifyThrottle,
}


class DeviceCodeView(SessionView):
    """The device code grant. The member `action` says which part."""

    permission_classes = [AllowAny]

    def get_throttles(self) -> list[BaseThrottle]:
        throttle = THROTTLES.get(self.asked())
        return [throttle()] if throttle else []

    def asked(self) -> str:
        action = dict(self.request.data).get("action", "")
        return action if isinstance(action, str) else json.dumps(action, ensure_ascii=False)

    @extend_schema(
        request=PolymorphicProxySerializer(
            component_name="DeviceCodeRequest",
            serializers=[StartRequest, VerifyRequest, PollRequest],
            resource_type_field_name=None,
        ),
        responses=PolymorphicProxySerializer(
            component_name="DeviceCodeResponse",
            serializers=[GrantStartedSerializer, DecidedSerializer, PolledSerializer],
            resource_type_field_name=None,
        ),
    )
    def post(self, request: Request) -> Response:
        match self.asked():
            case "device_start":
                return self.start(request)
            case "device_verify":
                return self.verify(request)
            case "device_poll":
                return self.poll(request)
            case action:
                raise errors.Invalid(
                    _(
                        'There is no action "%(action)s" here. Send device_start, '
                        "device_verify or device_poll.",
                        action=printable(action),
                    ),
                    field="action",
                )

    def start(self, request: Request) -> Response:
        given = parsed(StartRequest, request)
        origin = f"{request.scheme}://{request.get_host()}"
        return Response(codes.start(given["interval"], given["expires_in"], origin))

    def verify(self, request: Request) -> Response:
        user = request.user
        if not isinstance(user, User):
            raise errors.NotLoggedIn(_("Log in first. A person must approve the device."))
        given = parsed(VerifyRequest, request)
        ip = audit.ip_of(request)
        return Response({"status": codes.decide(user, given["user_code"], given["approve"], ip)})

    def poll(self, request: Request) -> Response:
        return Response(codes.poll(parsed(PollRequest, request)["device_code"]))


class RefreshView(PublicView):
    @extend_schema(request=RefreshRequest, responses=RefreshedSerializer)
    def post(self, request: Request) -> Response:
        """Spend a refresh token. Return the next one with an access token."""
        token = parsed(RefreshRequest, request)["refresh_token"]
        session = tokens.refresh(token, audit.ip_of(request))
        return Response(session | {"session": session})


class RegistrationView(PublicView):
    @extend_schema(request=RegistrationRequest, responses=ENROLLED)
    def post(self, request: Request) -> Response:
        """Enrol a device by a registration code, or again by its latest refresh token.

        The response is 201 for a new device, and 200 for one that enrols again.
        """
        spec = parsed(RegistrationRequest, request)
        user_id, ip = spec["user_id"], audit.ip_of(request)
        if spec["registration_code"]:
            actor = f"device {spec['device_public_id']}"
            code = spec["registration_code"]
            return shown(registration.with_code(spec, user_id, code, actor, ip))
        if spec["refresh_token"]:
            return shown(registration.with_refresh_token(spec, user_id, spec["refresh_token"], ip))
        raise errors.Unauthorized(
            _("Send a registration_code. A device gets one when a person approves it.")
        )


class DeviceViewSet(OwnedMixin, ListModelMixin, RetrieveModelMixin, GenericViewSet[Device]):
    queryset = Device.objects.prefetch_related("tags")
    serializer_class = DeviceSerializer
    obtype = "devices"
    permissions = {
        "list": "read",
        "retrieve": "read",
        "by_public_id": "read",
        "create": "authenticate",
        "update": "write",
        "partial_update": "write",
        "destroy": "write",
    }
    other_obtypes = {"create": "ForDeviceAuthenticate"}

    @extend_schema(parameters=[OpenApiParameter("tag", description="only devices with this tag")])
    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().list(request, *args, **kwargs)

    def filter_queryset(self, queryset: Any) -> Any:
        tag = self.request.query_params.get("tag") if self.action == "list" else None
        return queryset if tag is None else queryset.filter(tags__tag=tag)

    @extend_schema(responses=DeviceSerializer)
    def by_public_id(self, request: Request, device_public_id: str, **kwargs: Any) -> Response:
        device = self.get_queryset().filter(public_id=device_public_id.lower()).first()
        if device is None:
            asked = printable(device_public_id)
            raise errors.NotFound(
                _("You have no device with the public id %(asked)s. Check it.", asked=asked)
            )
        return Response(self.get_serializer(device).data)

    @extend_schema(request=OwnEnrolRequest, responses=ENROLLED)
    def create(self, request: Request, **kwargs: Any) -> Response:
        """Enrol a device. A session sends a registration code. An API key needs none.

        The response is 201 for a new device, and 200 for one that enrols again.
        """
        key, actor, ip = request.auth, audit.actor_of(request), audit.ip_of(request)
        if isinstance(key, ApiKey):
            return shown(registration.with_key(parsed(EnrolRequest, request), key, actor, ip))
        spec = parsed(OwnEnrolRequest, request)
        code = spec["registration_code"]
        return shown(registration.with_code(spec, self.owner.pk, code, actor, ip))

    @extend_schema(request=DeviceChange, responses=DeviceSerializer)
    def update(self, request: Request, **kwargs: Any) -> Response:
        """Change the given members and keep the others."""
        device = self.get_object()
        given = parsed(DeviceChange, request, partial=True)
        return Response(self.get_serializer(services.change_device(device, given)).data)

    @extend_schema(request=DeviceChange, responses=DeviceSerializer)
    def partial_update(self, request: Request, **kwargs: Any) -> Response:
        return self.update(request, **kwargs)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, **kwargs: Any) -> Response:
        """Revoke the device and all its tokens."""
        services.revoke_device(self.get_object())
        return Response(status=NO_CONTENT)


def shown(enrolled: Enrolled) -> Response:
    data = EnrolledSerializer({"device": enrolled.device, "session": enrolled.session}).data
    return Response(data, status=CREATED if enrolled.is_new else 200)


class EnrolmentKeyViewSet(
    OwnedMixin, ListModelMixin, RetrieveModelMixin, GenericViewSet[EnrolmentKey]
):
    """Make, read and revoke the keys that enrol a fleet. This needs a session."""

    queryset = EnrolmentKey.objects.filter(api_key__revoked_at=None).select_related(
        "api_key__owner"
    )
    serializer_class = EnrolmentKeySerializer
    owner_field = "api_key__owner"
    session_only = True

    @extend_schema(request=EnrolmentKeyRequest, responses={201: NewEnrolmentKeySerializer})
    def create(self, request: Request, **kwargs: Any) -> Response:
        given = parsed(EnrolmentKeyRequest, request)
        refuse_old_login(request, settings.EXPORT_LOGIN_AGE)
        row, token = services.create_enrolment_key(self.owner, **given, ip=audit.ip_of(request))
        return Response(self.get_serializer(row).data | {"token": token}, status=CREATED)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, **kwargs: Any) -> Response:
        services.revoke_enrolment_key(self.get_object())
        return Response(status=NO_CONTENT)


class DeviceEndpoint(APIView):
    """Base of the endpoints that only a device calls, with its access token."""

    authentication_classes = [DeviceAuthentication]
    permission_classes = [IsDevice]
    metadata_class = None

    @property
    def device(self) -> Device:
        device = self.request.auth
        assert isinstance(device, Device)
        return device


class UpdatesView(DeviceEndpoint):
    @extend_schema(parameters=[UpdatesQuery], responses={200: UpdatesSerializer, 204: None})
    def get(self, request: Request) -> Response:
        """Return the signals after the cursor, or 204 when there is none.

        devices.longpoll serves a request whose `wait` is not 0.
        """
        poll = longpoll.poll_of(request.query_params, request.headers.get("If-None-Match"))
        lines = signals.read(poll.cursor, self.device, poll.limit)
        if not lines:
            return Response(status=NO_CONTENT, headers=longpoll.headers_of(poll.cursor))
        cursor = lines[-1].cursor
        return Response(longpoll.shown(lines), headers=longpoll.headers_of(cursor))
