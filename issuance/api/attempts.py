"""Responses about attempts and their events (docs/reference/api.md)."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from certctrl.api import EpochMillis
from certctrl.sentences import restored
from issuance.calls import trouble_of
from issuance.models import Issuance, IssuanceEvent

STATUS_OF = {  # any other state is PROCESSING
    Issuance.State.QUEUED: "PENDING",
    Issuance.State.ISSUED: "SUCCESS",
    Issuance.State.FAILED: "FAILED",
    Issuance.State.CANCELED: "CANCELLED",
}


def status_of(issuance: Issuance) -> str:
    """Return the status of an attempt as the API shows it."""
    return STATUS_OF.get(Issuance.State(issuance.state), "PROCESSING")


def name_servers(issuance: Issuance) -> list[dict[str, Any]]:
    """Return the servers of the last look, while the attempt waits for its TXT records."""
    if issuance.state != Issuance.State.PRESENTED:
        return []
    return [each | {"server": str(restored(each["server"]))} for each in issuance.servers]


class NameServerSerializer(serializers.Serializer[Any]):
    """A name server of the last look, and what it answers since `since` (epoch seconds)."""

    server = serializers.CharField()
    state = serializers.ChoiceField(["shows", "missing", "silent", "skipped"])
    since = serializers.IntegerField()


def progress(issuance: Issuance) -> dict[str, Any]:
    """Return an open attempt for the API; times are epoch seconds in UTC.

    `looks_again_at` is null while a worker holds the attempt. `proves`: the attempt is at the CA's
    staging, and its certificate is discarded.
    """
    return {
        "issue_history_id": issuance.pk,
        "state": issuance.state,
        "status": status_of(issuance),
        "proves": issuance.proves,
        "waits_for": str(trouble_of(issuance) or issuance.waits_for),
        "looks_again_at": int(issuance.wake_at.timestamp())
        if issuance.wake_at and not issuance.holder
        else None,
        "name_servers": name_servers(issuance),
        "slot_at": int(issuance.slot_at.timestamp()) if issuance.slot_at else None,
        "started_at": int(issuance.created_at.timestamp()),
    }


class ProgressSerializer(serializers.Serializer[Any]):
    """An open attempt, as `progress()` returns it."""

    issue_history_id = serializers.IntegerField()
    state = serializers.CharField()
    status = serializers.CharField()
    proves = serializers.BooleanField()
    waits_for = serializers.CharField()
    looks_again_at = serializers.IntegerField(allow_null=True)
    name_servers = NameServerSerializer(many=True)
    slot_at = serializers.IntegerField(
        allow_null=True, help_text="estimated time of the order, by the CA's rate limits"
    )
    started_at = serializers.IntegerField()


class AttemptSerializer(serializers.ModelSerializer[Issuance]):
    """The response of `issues`, `renew` and `cancel`."""

    issue_history_id = serializers.IntegerField(source="pk", read_only=True)
    status = serializers.SerializerMethodField()

    class Meta:
        model = Issuance
        fields: tuple[str, ...] = ("issue_history_id", "status")

    def get_status(self, issuance: Issuance) -> str:
        return status_of(issuance)


class StartedSerializer(AttemptSerializer):
    """The response of `issues` and `renew` at an ACME CA."""

    note = serializers.CharField(required=False, help_text="warnings for people")

    class Meta(AttemptSerializer.Meta):
        fields = (*AttemptSerializer.Meta.fields, "note")


class IssueResultSerializer(AttemptSerializer):
    looks_again_at = serializers.SerializerMethodField()
    name_servers = serializers.SerializerMethodField()
    error_message = serializers.CharField(source="error_what", read_only=True)

    class Meta(AttemptSerializer.Meta):
        fields = (
            *AttemptSerializer.Meta.fields,
            "certificate_id",
            "state",
            "waits_for",
            "looks_again_at",
            "name_servers",
            "error_code",
            "error_message",
            "failure",
            "proves",
        )

    def get_looks_again_at(self, issuance: Issuance) -> int | None:
        at: int | None = progress(issuance)["looks_again_at"]
        return at

    @extend_schema_field(NameServerSerializer(many=True))
    def get_name_servers(self, issuance: Issuance) -> list[dict[str, Any]]:
        return name_servers(issuance)


class HistorySerializer(serializers.ModelSerializer[Issuance]):
    cert_record_id = serializers.IntegerField(source="certificate_id", read_only=True)
    issue_attempt_number = serializers.IntegerField(source="number", read_only=True)
    acme_order_id = serializers.CharField(source="order_url", read_only=True)
    error_message = serializers.CharField(source="error_what", read_only=True)
    failure = serializers.ChoiceField(Issuance.Failure.choices, allow_blank=True, read_only=True)
    status = serializers.SerializerMethodField()
    started_at = EpochMillis(source="created_at")
    completed_at = serializers.SerializerMethodField()

    class Meta:
        model = Issuance
        fields = (
            "id",
            "cert_record_id",
            "issue_attempt_number",
            "status",
            "state",
            "reason",
            "acme_order_id",
            "error_code",
            "error_message",
            "failure",
            "proves",
            "started_at",
            "completed_at",
        )
        read_only_fields = fields

    def get_status(self, issuance: Issuance) -> str:
        return status_of(issuance)

    def get_completed_at(self, issuance: Issuance) -> int:
        return int(issuance.ended_at.timestamp() * 1000) if issuance.ended_at else 0


class EventSerializer(serializers.ModelSerializer[IssuanceEvent]):
    at = EpochMillis()

    class Meta:
        model = IssuanceEvent
        fields = ("id", "at", "step", "outcome", "what", "took_ms")
        read_only_fields = fields
