"""The JSON of devices, see docs/reference/devices.md."""

import base64
import binascii
from typing import Any

from django.utils.translation import gettext_lazy
from rest_framework import serializers

from accounts.serializers import TEN_YEARS
from certctrl.api import EpochMillis, EpochSeconds, OneOf
from devices.models import Device, EnrolmentKey

PUBLIC_ID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z"
TAG = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"
MOST_TAGS = 20


class PublicIdField(serializers.RegexField):
    """The public id of a device, in lower case."""

    default_error_messages = {
        "invalid": gettext_lazy(
            "This is not the public id of a device. Send 36 characters: hexadecimal "
            "digits in groups of 8, 4, 4, 4 and 12."
        )
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(PUBLIC_ID, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        return super().to_internal_value(data).lower()


class PublicKeyField(serializers.CharField):
    """A public key of 32 bytes: standard base64 with padding."""

    default_error_messages = {
        "not_base64": gettext_lazy(
            "This is not base64. Send the 32 bytes of an X25519 public key in base64."
        ),
        "length": gettext_lazy(
            "This has {length} bytes. Send the 32 bytes of an X25519 public key in base64."
        ),
    }

    def to_internal_value(self, data: Any) -> Any:
        try:
            key = base64.b64decode(super().to_internal_value(data), validate=True)
        except (binascii.Error, ValueError):
            self.fail("not_base64")
        if len(key) != 32:
            self.fail("length", length=len(key))
        return key


class UserIdField(serializers.IntegerField):
    """A user id, as a number or as text."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(min_value=1, max_value=10**18 - 1, **kwargs)


def metadata() -> serializers.CharField:
    return serializers.CharField(
        required=False, allow_blank=True, allow_null=True, max_length=255, default=""
    )


class EnrolRequest(serializers.Serializer[Any]):
    """A device and its public key. Other members, such as `ip` and `user_agent`, are ignored."""

    device_public_id = PublicIdField()
    dev_pk = PublicKeyField()
    name = metadata()
    platform = metadata()
    model = metadata()
    app_version = metadata()


class OwnEnrolRequest(EnrolRequest):
    """The request of a session. It needs the registration code."""

    registration_code = serializers.CharField(max_length=200)


class RegistrationRequest(EnrolRequest):
    """The request of a device: with a registration code, or with its latest refresh token."""

    user_id = UserIdField()
    registration_code = serializers.CharField(
        required=False, allow_blank=True, allow_null=True, max_length=200, default=""
    )
    refresh_token = serializers.CharField(
        required=False, allow_blank=True, allow_null=True, max_length=200, default=""
    )


class DeviceSerializer(serializers.ModelSerializer[Device]):
    device_public_id = serializers.CharField(source="public_id")
    tags = serializers.SerializerMethodField()
    created_at = EpochMillis()
    last_seen_at = EpochMillis()

    class Meta:
        model = Device
        fields = (
            "id",
            "user_id",
            "device_public_id",
            "name",
            "platform",
            "model",
            "app_version",
            "agent_error",
            "status",
            "tags",
            "created_at",
            "last_seen_at",
        )
        read_only_fields = fields

    user_id = serializers.IntegerField(source="owner_id")

    def get_tags(self, device: Device) -> list[str]:
        return sorted(each.tag for each in device.tags.all())


class TagsField(serializers.ListField):
    """A list of tags, without duplicates."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(child=TagField(), max_length=MOST_TAGS, **kwargs)

    def to_internal_value(self, data: Any) -> list[str]:
        return list(dict.fromkeys(super().to_internal_value(data)))


class TagField(serializers.RegexField):
    default_error_messages = {
        "invalid": gettext_lazy("A tag has up to 64 letters, digits, and -._ after the first.")
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(TAG, **kwargs)


class DeviceChange(serializers.Serializer[Any]):
    name = serializers.CharField(required=False, max_length=255)
    tags = TagsField(required=False)


class TokensSerializer(serializers.Serializer[Any]):
    access_token = serializers.CharField()
    refresh_token = serializers.CharField()
    token_type = serializers.CharField()
    expires_in = serializers.IntegerField()


class EnrolledSerializer(serializers.Serializer[Any]):
    device = DeviceSerializer()
    session = TokensSerializer()


class RefreshRequest(serializers.Serializer[Any]):
    refresh_token = serializers.CharField(max_length=200)


class RefreshedSerializer(TokensSerializer):
    """The tokens twice, because agents read either form."""

    session = TokensSerializer()


class StartRequest(serializers.Serializer[Any]):
    action = OneOf(["device_start"])
    scopes = serializers.ListField(
        child=serializers.CharField(max_length=100), required=False, max_length=20
    )
    interval = serializers.IntegerField(min_value=1, max_value=3600, default=5)
    expires_in = serializers.IntegerField(min_value=30, max_value=3600, default=900)


class GrantStartedSerializer(serializers.Serializer[Any]):
    device_code = serializers.CharField()
    user_code = serializers.CharField()
    verification_uri = serializers.CharField()
    verification_uri_complete = serializers.CharField()
    interval = serializers.IntegerField()
    expires_in = serializers.IntegerField()


class VerifyRequest(serializers.Serializer[Any]):
    action = OneOf(["device_verify"])
    user_code = serializers.RegexField(
        r"^[A-Z0-9]{4}-[A-Z0-9]{4}\Z",
        error_messages={
            "invalid": gettext_lazy("A user code has the form WXYZ-1234. Copy it from the device.")
        },
    )
    approve = serializers.BooleanField()


class PollRequest(serializers.Serializer[Any]):
    action = OneOf(["device_poll"])
    device_code = serializers.CharField(max_length=200)
    device_id = serializers.IntegerField(required=False, allow_null=True)


class DecidedSerializer(serializers.Serializer[Any]):
    status = serializers.CharField()


class PolledSerializer(serializers.Serializer[Any]):
    """The status of a grant. The other members are there when it is `ready`."""

    status = serializers.CharField()
    registration_code = serializers.CharField(required=False)
    registration_code_ttl = serializers.IntegerField(required=False)
    user_id = serializers.IntegerField(required=False)


class UpdatesQuery(serializers.Serializer[Any]):
    """The query of a poll. The header If-None-Match wins over `cursor`."""

    cursor = serializers.CharField(required=False, allow_blank=True, default="", max_length=64)
    limit = serializers.IntegerField(min_value=1, max_value=100, default=20)
    wait = serializers.IntegerField(
        min_value=0, max_value=30, default=0, help_text="seconds to wait for a signal"
    )


class SignalSerializer(serializers.Serializer[Any]):
    """A line of the log: see docs/reference/devices.md."""

    type = serializers.CharField()
    ts_ms = serializers.IntegerField()
    ref = serializers.DictField()


class UpdatesSerializer(serializers.Serializer[Any]):
    cursor = serializers.CharField()
    signals = SignalSerializer(many=True)


class EnrolmentKeyRequest(serializers.Serializer[Any]):
    name = serializers.CharField(min_length=1, max_length=64)
    tag = TagField(required=False, allow_blank=True, default="")
    uses = serializers.IntegerField(min_value=1, max_value=100_000)
    expires_in_seconds = serializers.IntegerField(min_value=1, max_value=TEN_YEARS)


class EnrolmentKeySerializer(serializers.ModelSerializer[EnrolmentKey]):
    """An enrolment key without its token."""

    name = serializers.CharField(source="api_key.name")
    api_key_id = serializers.IntegerField()
    created_at = EpochSeconds()
    expires_at = EpochSeconds(source="api_key.expires_at")

    class Meta:
        model = EnrolmentKey
        fields = (
            "id",
            "api_key_id",
            "name",
            "tag",
            "uses",
            "uses_left",
            "created_at",
            "expires_at",
        )
        read_only_fields = fields


class NewEnrolmentKeySerializer(EnrolmentKeySerializer):
    """A new enrolment key with its token. The token is shown only once."""

    token = serializers.CharField(read_only=True)

    class Meta(EnrolmentKeySerializer.Meta):
        fields = (*EnrolmentKeySerializer.Meta.fields, "token")  # type: ignore[assignment]
