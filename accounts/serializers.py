"""The JSON of API keys, see `docs/reference/api.md`."""

from typing import Any

from django.utils.translation import gettext_lazy
from rest_framework import serializers

from accounts.models import ApiKey, SavedView
from accounts.permissions import PERMISSIONS
from certctrl.api import EpochSeconds, OneOf

TEN_YEARS = 10 * 365 * 86400


class PermissionSerializer(serializers.Serializer[Any]):
    obtype = OneOf(sorted(PERMISSIONS))
    obid = serializers.RegexField(
        r"^(\*|[A-Za-z0-9-]{1,64})\Z",
        help_text="* or the id of one object",
        error_messages={"invalid": gettext_lazy("This is no id. Give * or the id of one object.")},
    )
    actions = serializers.ListField(
        child=serializers.CharField(max_length=32), min_length=1, max_length=10
    )

    default_error_messages = {
        "unknown": gettext_lazy("There is no action {action} on {obtype}. Choose one of {known}.")
    }

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        _, known = PERMISSIONS[attrs["obtype"]]
        for action in attrs["actions"]:
            if action not in known:
                self.fail("unknown", action=action, obtype=attrs["obtype"], known=", ".join(known))
        return attrs | {"actions": sorted(set(attrs["actions"]))}


class ApiKeyRequest(serializers.Serializer[Any]):
    """The request that creates an API key."""

    name = serializers.CharField(min_length=1, max_length=64)
    permissions = PermissionSerializer(many=True, allow_empty=False, max_length=100)  # type: ignore[call-arg]
    expires_in_seconds = serializers.IntegerField(min_value=1, max_value=TEN_YEARS)


class ApiKeySerializer(serializers.ModelSerializer[ApiKey]):
    """An API key without its token."""

    permissions = PermissionSerializer(many=True, read_only=True)
    created_at = EpochSeconds()
    expires_at = EpochSeconds()
    last_used_at = EpochSeconds(allow_null=True)

    class Meta:
        model = ApiKey
        fields = ("id", "name", "prefix", "permissions", "created_at", "expires_at", "last_used_at")
        read_only_fields = fields


class SavedViewSerializer(serializers.ModelSerializer[SavedView]):
    """A list of certificates with a name. `query` has the filters, as in the page's address."""

    name = serializers.CharField(max_length=64)
    query = serializers.CharField(max_length=1000, allow_blank=True)
    created_at = EpochSeconds()

    class Meta:
        model = SavedView
        fields = ("id", "name", "query", "created_at")


class NewApiKeySerializer(ApiKeySerializer):
    """A new API key with its token. The token is shown only once."""

    token = serializers.CharField(read_only=True)
    expires_in_seconds = serializers.IntegerField(read_only=True)

    class Meta(ApiKeySerializer.Meta):
        fields = (*ApiKeySerializer.Meta.fields, "expires_in_seconds", "token")  # type: ignore[assignment]


class QuotaSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    used = serializers.IntegerField()
    limit = serializers.IntegerField(allow_null=True, help_text="null when there is none")


class ScopeSerializer(serializers.Serializer[Any]):
    obtype = serializers.CharField()
    actions = serializers.ListField(child=serializers.CharField())
    description = serializers.CharField()
