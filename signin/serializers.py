"""The JSON of the session and of the person's own account, see `docs/reference/api.md`."""

from typing import Any

from rest_framework import serializers

from accounts import sessions
from accounts.models import Session, User
from certctrl.api import EpochSeconds


def roles_of(user: User) -> list[str]:
    return ["user", "admin"] if user.is_staff else ["user"]


class LoginSerializer(serializers.Serializer[Any]):
    email = serializers.EmailField(max_length=254)
    password = serializers.CharField(max_length=1024, trim_whitespace=False, write_only=True)
    action = serializers.CharField(required=False, help_text='"login"; may be left out')
    code = serializers.CharField(
        required=False,
        allow_blank=True,
        max_length=64,
        write_only=True,
        help_text="of the authenticator app, or a recovery code; needed with a second factor",
    )
    next = serializers.CharField(required=False, allow_blank=True, max_length=2000)


class LoggedInUserSerializer(serializers.ModelSerializer[User]):
    roles = serializers.SerializerMethodField()

    class Meta:
        model = User
        fields = ("id", "email", "roles")

    def get_roles(self, user: User) -> list[str]:
        return roles_of(user)


class LoggedInSerializer(serializers.Serializer[Any]):
    user = LoggedInUserSerializer()
    to = serializers.CharField()


class ProfileSerializer(LoggedInUserSerializer):
    class Meta(LoggedInUserSerializer.Meta):
        fields = (  # type: ignore[assignment]
            *("id", "name", "email", "roles"),
            *("country_of_residence", "language"),
        )


class StatusSerializer(serializers.Serializer[Any]):
    user = ProfileSerializer()
    to = serializers.CharField()
    amr = serializers.ListField(child=serializers.CharField())
    acr = serializers.CharField()
    auth_time = serializers.IntegerField()
    mfa = serializers.BooleanField()


class RegisterRequest(serializers.Serializer[Any]):
    email = serializers.EmailField(max_length=254)
    password = serializers.CharField(max_length=1024, trim_whitespace=False, write_only=True)
    name = serializers.CharField(max_length=64)
    country_of_residence = serializers.CharField(max_length=2, required=False, allow_blank=True)


class ActivateRequest(serializers.Serializer[Any]):
    email = serializers.EmailField(max_length=254)
    verify_code = serializers.CharField(max_length=32)
    password = serializers.CharField(
        max_length=1024,
        trim_whitespace=False,
        required=False,
        write_only=True,
        help_text="needed when other networks registered the address too",
    )


class RequestResetRequest(serializers.Serializer[Any]):
    email = serializers.EmailField(max_length=254)


class ResetRequest(serializers.Serializer[Any]):
    email = serializers.EmailField(max_length=254)
    verify_code = serializers.CharField(max_length=32)
    new_password = serializers.CharField(max_length=1024, trim_whitespace=False, write_only=True)


class SessionSerializer(serializers.ModelSerializer[Session]):
    """An open session of the user."""

    id = serializers.CharField(source="public_id")
    seen_at = EpochSeconds()
    expires_at = EpochSeconds(source="expire_date")
    current = serializers.SerializerMethodField()

    class Meta:
        model = Session
        fields = ("id", "ip", "agent", "seen_at", "expires_at", "current")
        read_only_fields = fields

    def get_current(self, session: Session) -> bool:
        return bool(sessions.is_current(self.context["request"], session))


class NameSerializer(serializers.Serializer[Any]):
    available = serializers.BooleanField()


class EndedSerializer(serializers.Serializer[Any]):
    ended = serializers.IntegerField(help_text="how many sessions ended")
