"""The reports of agents: their version, and what became of a certificate on the device."""

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext_lazy
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from certctrl.api import NO_CONTENT, OneOf, parsed
from certctrl.formats import JSONParser
from devices.api import DeviceEndpoint
from devices.services import note_error, note_version
from issuance import rollout
from issuance.rollout import STATES, Report


class DeploymentReport(serializers.Serializer[Any]):
    cert_id = serializers.IntegerField(min_value=1, max_value=10**18 - 1)
    serial = serializers.RegexField(
        r"(?i)\A(0x)?[0-9a-f:]+\Z",
        max_length=100,
        error_messages={"invalid": gettext_lazy("This is no serial number. Send it in hex.")},
    )
    state = OneOf(list(STATES))
    what = serializers.CharField(required=False, allow_blank=True, allow_null=True, default="")

    def to_report(self, event: Mapping[str, Any]) -> Report:
        given = self.run_validation(event)
        return Report(given["cert_id"], given["serial"], given["state"], given["what"] or "")


class EventField(serializers.DictField):
    """An event of an agent. Events of an unknown type are ignored."""

    def to_internal_value(self, data: Any) -> Any:
        event = super().to_internal_value(data)
        return DeploymentReport().to_report(event) if event.get("type") == "deployment" else event


class NotifyRequest(serializers.Serializer[Any]):
    """The report of an agent. `deployment` events say what became of a version.

    Each has `cert_id`, `serial`, `state` (installed, served, rolled_back or failed) and `what`.
    """

    schema = serializers.CharField(required=False, allow_null=True)
    events = serializers.ListField(child=EventField(), max_length=100)


class NotifyParser(JSONParser):
    """Takes reasons of several lines, such as the output of a command."""

    allows_lines = True


class NotifyView(DeviceEndpoint):
    parser_classes = [NotifyParser]

    @extend_schema(request=NotifyRequest, responses={204: None})
    def post(self, request: Request) -> Response:
        """Store the version of an agent, what fails there, and the state of its certificates."""
        events = parsed(NotifyRequest, request)["events"]
        reports = [each for each in events if isinstance(each, Report)]
        for event in events:
            if isinstance(event, Report):
                continue
            match event:
                case {"type": "agent_version", "version": str(version)}:
                    note_version(self.device, version)
                case {"type": "agent_error", "what": str(what)}:
                    note_error(self.device, what)
        rollout.note_reports(self.device, reports)
        return Response(status=NO_CONTENT)
