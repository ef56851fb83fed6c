"""The API of notices, notice settings and webhooks.

The secret of a webhook is shown only in the response that creates or rotates it.
"""

from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.mixins import ListModelMixin, RetrieveModelMixin
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from accounts import audit
from certctrl.api import CountedThrottle, EpochSeconds, OneOf, OwnedMixin
from notices import addresses, webhooks
from notices.models import Delivery, Notice, NoticeSettings, Webhook, settings_of
from notices.raising import raise_test


class DeliverySerializer(serializers.ModelSerializer[Delivery]):
    """One delivery of a notice, and its state."""

    state = serializers.ChoiceField(choices=Delivery.State.choices)
    next_try_at = EpochSeconds(source="wake_at", allow_null=True)
    sent_at = EpochSeconds(allow_null=True)

    class Meta:
        model = Delivery
        fields = ("channel", "webhook_id", "state", "next_try_at", "sent_at", "error_what")
        read_only_fields = fields


class NoticeSerializer(serializers.ModelSerializer[Notice]):
    raised_at = EpochSeconds()
    deliveries = DeliverySerializer(many=True)

    class Meta:
        model = Notice
        fields = ("id", "kind", "subject", "body", "data", "raised_at", "deliveries")
        read_only_fields = fields


class Kinds(serializers.ListField):
    """A list of kinds of notices, without duplicates."""

    child = OneOf(choices=Notice.CHOOSABLE)

    def to_internal_value(self, data: Any) -> list[str]:
        return list(dict.fromkeys(super().to_internal_value(data)))


class NoticeSettingsSerializer(serializers.ModelSerializer[NoticeSettings]):
    muted = Kinds(required=False)
    digest_over = serializers.IntegerField(required=False, min_value=0, max_value=1000)

    email_confirmed = serializers.SerializerMethodField(
        help_text="notices go to `email`; if it is empty, to the owner's address"
    )
    mails_go_to = serializers.CharField(
        read_only=True, help_text="the current address; empty when there is none"
    )
    note = serializers.SerializerMethodField()

    class Meta:
        model = NoticeSettings
        fields = (
            "email_on",
            "email",
            "muted",
            "digest_over",
            "email_confirmed",
            "mails_go_to",
            "note",
        )

    def get_email_confirmed(self, wanted: NoticeSettings) -> bool:
        return not wanted.unconfirmed

    def get_note(self, wanted: NoticeSettings) -> str:
        return str(addresses.note_of(wanted))


class CodeSerializer(serializers.Serializer[Any]):
    code = serializers.CharField(max_length=32, write_only=True)


class WebhookSerializer(serializers.ModelSerializer[Webhook]):
    url = serializers.CharField(max_length=500)
    name = serializers.CharField(required=False, max_length=64)
    kinds = Kinds(required=False)
    enabled = serializers.BooleanField(required=False)
    disabled_at = EpochSeconds(allow_null=True)
    created_at = EpochSeconds()

    class Meta:
        model = Webhook
        fields = (
            "id",
            "name",
            "url",
            "kinds",
            "enabled",
            "disabled_at",
            "last_error",
            "created_at",
        )
        read_only_fields = ("last_error",)


class NewWebhookSerializer(WebhookSerializer):
    """A webhook with its secret (`whsec_...`). Other responses do not have the secret."""

    secret = serializers.SerializerMethodField()

    class Meta(WebhookSerializer.Meta):
        fields = (*WebhookSerializer.Meta.fields, "secret")  # type: ignore[assignment]

    @extend_schema_field(str)
    def get_secret(self, webhook: Webhook) -> str:
        return str(self.context["secret"])


class NoticeViewSet(OwnedMixin, ListModelMixin, RetrieveModelMixin, GenericViewSet[Notice]):
    queryset = Notice.objects.prefetch_related("deliveries")
    serializer_class = NoticeSerializer
    obtype = "notices"
    permissions = {"list": "read", "retrieve": "read"}


class NoticeTestThrottle(CountedThrottle):
    scope = "notice_test"
    rate = "10/hour"


class NoticeSettingsViewSet(OwnedMixin, GenericViewSet[NoticeSettings]):
    """The notice settings of an owner. They have defaults until the owner changes them."""

    queryset = NoticeSettings.objects.all()
    serializer_class = NoticeSettingsSerializer
    obtype = "notices"
    permissions = {"show": "read", "change": "write", "send_code": "write", "confirm": "write"}

    @extend_schema(responses=NoticeSettingsSerializer)
    def show(self, request: Request, **kwargs: Any) -> Response:
        return Response(self.get_serializer(settings_of(self.owner.pk)).data)

    @extend_schema(request=NoticeSettingsSerializer, responses=NoticeSettingsSerializer)
    def change(self, request: Request, **kwargs: Any) -> Response:
        """Change the given settings and keep the others.

        A code is mailed to a new `email`. `confirm` takes this code.
        """
        body = self.get_serializer(settings_of(self.owner.pk), data=request.data, partial=True)
        body.is_valid(raise_exception=True)
        return Response(self.get_serializer(addresses.change(self.owner, body.validated_data)).data)

    @extend_schema(request=None, responses=NoticeSettingsSerializer)
    def send_code(self, request: Request, **kwargs: Any) -> Response:
        """Mail another code to the address that is not confirmed."""
        return Response(self.get_serializer(addresses.send_code(self.owner)).data)

    @extend_schema(request=CodeSerializer, responses=NoticeSettingsSerializer)
    def confirm(self, request: Request, **kwargs: Any) -> Response:
        """Confirm the address with the code. Notices go to this address from now on."""
        body = CodeSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        return Response(
            self.get_serializer(addresses.confirm(self.owner, body.validated_data["code"])).data
        )


class NoticeTestViewSet(OwnedMixin, GenericViewSet[Notice]):
    queryset = Notice.objects.all()
    serializer_class = NoticeSerializer
    throttle_classes = [NoticeTestThrottle]
    obtype = "notices"
    permissions = {"create": "write"}

    @extend_schema(request=None, responses={202: NoticeSerializer})
    def create(self, request: Request, **kwargs: Any) -> Response:
        """Send a test by mail and to every webhook. `deliveries` has the result of each."""
        notice = raise_test(self.owner)
        audit.note(self.owner, "notices.tested", f"notice:{notice.pk}")
        return Response(self.get_serializer(notice).data, status=status.HTTP_202_ACCEPTED)


class WebhookViewSet(OwnedMixin, ListModelMixin, RetrieveModelMixin, GenericViewSet[Webhook]):
    queryset = Webhook.objects.filter(retired_at=None).select_related("address")
    serializer_class = WebhookSerializer
    obtype = "webhooks"
    permissions = {
        "list": "read",
        "retrieve": "read",
        "create": "write",
        "update": "write",
        "partial_update": "write",
        "destroy": "write",
        "rotate_secret": "write",
    }

    @extend_schema(request=WebhookSerializer, responses={201: NewWebhookSerializer})
    def create(self, request: Request, **kwargs: Any) -> Response:
        body = self.get_serializer(data=request.data)
        body.is_valid(raise_exception=True)
        webhook, secret = webhooks.create_webhook(self.owner, body.validated_data)
        return Response(self.with_secret(webhook, secret), status=status.HTTP_201_CREATED)

    @extend_schema(request=WebhookSerializer, responses=WebhookSerializer)
    def update(self, request: Request, **kwargs: Any) -> Response:
        """Change the given members and keep the others."""
        webhook = self.get_object()
        body = self.get_serializer(webhook, data=request.data, partial=True)
        body.is_valid(raise_exception=True)
        return Response(
            self.get_serializer(webhooks.update_webhook(webhook, body.validated_data)).data
        )

    @extend_schema(request=WebhookSerializer, responses=WebhookSerializer)
    def partial_update(self, request: Request, **kwargs: Any) -> Response:
        return self.update(request, **kwargs)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, **kwargs: Any) -> Response:
        webhooks.retire_webhook(self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=None, responses=NewWebhookSerializer)
    @action(detail=True, methods=["post"], url_path="rotate-secret")
    def rotate_secret(self, request: Request, **kwargs: Any) -> Response:
        """Replace the secret immediately. The old secret is not used any more."""
        webhook = self.get_object()
        return Response(self.with_secret(webhook, webhooks.rotate_secret(webhook)))

    @staticmethod
    def with_secret(webhook: Webhook, secret: str) -> Any:
        return NewWebhookSerializer(webhook, context={"secret": secret}).data
