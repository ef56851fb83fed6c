"""The API of install plans, for owners, scripts and devices (docs/reference/devices.md)."""

from typing import Any

from django.db import transaction
from django.utils.translation import gettext_lazy
from drf_spectacular.utils import PolymorphicProxySerializer, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from accounts import audit
from accounts.models import ApiKey
from certctrl import errors
from certctrl.api import EpochMillis, OneOf, OwnedMixin, parsed
from certctrl.formats import JSONParser
from certctrl.jsonbody import printable
from certctrl.sentences import sentence as _
from devices import installplans
from devices.api import DeviceEndpoint
from devices.installitems import (
    FILES,
    MOST_ITEMS,
    ArgumentsField,
    CommandField,
    ItemIdField,
    ItemSerializer,
    OpenSerializer,
    optional_text,
)
from devices.models import Device, InstallPlan

LONGEST_SCRIPT = 64 * 1024
MOST_PATCHES = 100


class InstallPlanParser(JSONParser):
    """Takes commands and scripts of several lines."""

    allows_lines = True


class PatchParser(InstallPlanParser):
    """Takes a list of patches too."""

    allows_list = True


class InstallPlanRequest(serializers.Serializer[Any]):
    installs = ItemSerializer(many=True, max_length=MOST_ITEMS)  # type: ignore[call-arg]
    after_update_script = optional_text(LONGEST_SCRIPT)
    change_note = optional_text(1000)


class RestoreRequest(serializers.Serializer[Any]):
    version = serializers.IntegerField(min_value=1, max_value=2**31 - 1)
    change_note = optional_text(1000)


class PatchSerializer(OpenSerializer):
    """Changes of the items of one object. With `id`, only of that item.

    Members that are not listed here are ignored.
    """

    ob_type = OneOf(list(FILES))
    ob_id = serializers.IntegerField(min_value=1, max_value=10**18 - 1)
    id = ItemIdField(required=False, allow_null=True)
    type = OneOf(["copy", "exec", "import_ca"], required=False)
    cmd = CommandField()
    cmd_argv = ArgumentsField()

    default_error_messages = {
        "command": gettext_lazy(
            "A patch cannot set a command of a certificate. Replace the plan instead."
        ),
    }

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        sets_command = attrs.get("type") == "exec" or "cmd" in attrs or "cmd_argv" in attrs
        if attrs["ob_type"] == "cert" and sets_command:
            self.fail("command")
        return attrs


class PatchRequest(serializers.Serializer[Any]):
    patches = PatchSerializer(many=True, allow_empty=False, max_length=MOST_PATCHES)  # type: ignore[call-arg]
    after_update_script = optional_text(LONGEST_SCRIPT)


class InstallPlanSerializer(serializers.ModelSerializer[InstallPlan]):
    """The install plan of a device. `id` is the id of the device, which has one plan."""

    id = serializers.IntegerField(source="device_id", read_only=True)
    user_device_id = serializers.IntegerField(source="device_id", read_only=True)
    installs = serializers.ListField(read_only=True)
    installs_hash = serializers.CharField(read_only=True)
    installs_json = serializers.CharField(read_only=True)
    after_update_script = serializers.SerializerMethodField(help_text="null without a script")
    created_at = EpochMillis()
    updated_at = EpochMillis(source="created_at")

    class Meta:
        model = InstallPlan
        fields = (
            "id",
            "user_device_id",
            "version",
            "installs",
            "installs_hash",
            "installs_json",
            "after_update_script",
            "change_note",
            "updated_by",
            "created_at",
            "updated_at",
        )
        read_only_fields = fields

    def get_after_update_script(self, plan: InstallPlan) -> str | None:
        return plan.after_update_script or None


class InstallPlanVersionSerializer(InstallPlanSerializer):
    """A version of an install plan. Its id is for paging."""

    id = serializers.IntegerField(read_only=True)


class PatchedSerializer(serializers.Serializer[Any]):
    message = serializers.CharField()
    version = serializers.IntegerField()


class InstallPlanViewSet(OwnedMixin, GenericViewSet[Device]):
    queryset = Device.objects.all()
    serializer_class = InstallPlanSerializer
    parser_classes = [InstallPlanParser]
    obtype = "devices"
    permissions = {
        "retrieve": "read",
        "update": "write",
        "histories": "read",
        "restore": "write",
    }

    def retrieve(self, request: Request, **kwargs: Any) -> Response:
        """Return the install plan. A device without a plan has version 0."""
        return Response(self.get_serializer(installplans.current(self.get_object())).data)

    @extend_schema(request=InstallPlanRequest, responses=InstallPlanSerializer)
    def update(self, request: Request, **kwargs: Any) -> Response:
        """Replace the items. Without `after_update_script`, the script stays."""
        device = self.get_object()
        given = parsed(InstallPlanRequest, request)
        plan = installplans.replace(device, given, audit.actor_of(request))
        return Response(self.get_serializer(plan).data)

    @extend_schema(responses=InstallPlanVersionSerializer(many=True))
    def histories(self, request: Request, **kwargs: Any) -> Response:
        """List the kept versions, newest first."""
        versions = self.get_object().install_plans.order_by("-pk")
        page = self.paginate_queryset(versions) or []
        return self.get_paginated_response(InstallPlanVersionSerializer(page, many=True).data)

    @extend_schema(request=RestoreRequest, responses=InstallPlanSerializer)
    def restore(self, request: Request, **kwargs: Any) -> Response:
        """Write an earlier version again, as a new version."""
        device = self.get_object()
        given = parsed(RestoreRequest, request)
        note = given.get("change_note") or _(
            "Version %(version)s was restored.", version=given["version"]
        )
        plan = installplans.restore(device, given["version"], note, audit.actor_of(request))
        return Response(self.get_serializer(plan).data)


class InstallPlanPatchViewSet(OwnedMixin, GenericViewSet[Device]):
    """Patch the plan of a device that is named by its public id. A key names it by either id."""

    queryset = Device.objects.all()
    serializer_class = PatchedSerializer
    parser_classes = [PatchParser]
    obtype = "ForInstallConfigUpdate"
    permissions = {"create": "update"}

    @property
    def public_id(self) -> str:
        return str(self.kwargs["device_public_id"]).lower()

    def object_id(self) -> str | None:
        key = self.request.auth
        device = Device.objects.filter(owner=self.owner, public_id=self.public_id).first()
        if device and isinstance(key, ApiKey):
            ids = {str(device.pk)} & key.granted(self.obtype, "update")
            return ids.pop() if ids else self.public_id
        return self.public_id

    @extend_schema(
        request=PolymorphicProxySerializer(
            component_name="InstallPlanPatch",
            serializers=[PatchRequest, PatchSerializer(many=True)],
            resource_type_field_name=None,
            many=False,
        ),
        responses={200: PatchedSerializer},
    )
    def create(self, request: Request, **kwargs: Any) -> Response:
        """Patch items of an existing plan. The body is an object, or the list of patches alone."""
        device = Device.objects.filter(owner=self.owner, public_id=self.public_id).first()
        if device is None:
            shown = printable(self.public_id)
            raise errors.NotFound(
                _("You have no device with the public id %(shown)s. Check it.", shown=shown)
            )
        body: Any = request.data
        given = PatchRequest().run_validation({"patches": body} if isinstance(body, list) else body)
        plan = patch(device, given, audit.actor_of(request))
        message = _("The install plan has version %(version)s now.", version=plan.version)
        return Response({"message": str(message), "version": plan.version})


@transaction.atomic
def patch(device: Device, given: dict[str, Any], actor: str) -> InstallPlan:
    """Apply the patches to the newest version, check the result, and write it."""
    installplans.lock(device)
    plan = installplans.current(device)
    if not plan.version:
        raise errors.NotFound(_("This device has no install plan yet. Make one first (PUT)."))
    items = installplans.patched(plan.installs, given["patches"])
    script = {name: given[name] for name in ("after_update_script",) if name in given}
    changed = InstallPlanRequest().run_validation({"installs": items, **script})
    return installplans.replace(device, changed | {"change_note": "Patched."}, actor)


class OwnInstallPlanView(DeviceEndpoint):
    @extend_schema(responses=InstallPlanSerializer)
    def get(self, request: Request) -> Response:
        """Return the install plan of the calling device. Without a plan, its version is 0."""
        return Response(InstallPlanSerializer(installplans.current(self.device)).data)
