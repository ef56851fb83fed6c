"""The install plans of devices: read, replace, patch and restore.

A device has one plan. Each change writes its next version, notifies the device, and keeps the
newest versions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction

from accounts import audit
from certctrl import errors
from certctrl.sentences import sentence as _
from devices import signals
from devices.models import Device, InstallPlan

KEPT_VERSIONS = 50
PATCHABLE = ("type", "enabled", "cmd", "cmd_argv", "timeout_ms", "env")


def current(device: Device) -> InstallPlan:
    """Return the newest version. A device without a plan has version 0, which is not stored."""
    newest = device.install_plans.order_by("-version").first()
    if newest:
        return newest
    return InstallPlan(device=device, version=0, installs=[], created_at=device.created_at)


@transaction.atomic
def replace(device: Device, given: Mapping[str, Any], actor: str) -> InstallPlan:
    """Write a version with the items of `given`.

    Without the member `after_update_script`, the script stays.
    """
    lock(device)
    script = given.get("after_update_script", current(device).after_update_script) or ""
    note = given.get("change_note") or ""
    return write(device, given["installs"], script, note, actor)


@transaction.atomic
def restore(device: Device, version: int, note: str, actor: str) -> InstallPlan:
    """Write the items and the script of an earlier version again, as a new version.

    Raise NotFound if the version is not kept.
    """
    lock(device)
    old = device.install_plans.filter(version=version).first()
    if not old:
        raise errors.NotFound(
            _(
                "The install plan has no version %(version)s, or it is no longer kept. The "
                "histories list the versions.",
                version=version,
            )
        )
    return write(device, old.installs, old.after_update_script, note, actor)


def patched(items: Sequence[Any], patches: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the items after the patches. Raise Invalid for a patch that matches no item."""
    changed = [dict(item) for item in items]
    for number, patch in enumerate(patches):
        keys = [key for key in ("ob_type", "ob_id", "id") if patch.get(key) is not None]
        # An id is the same as a number and as text.
        names = [str(patch[key]) for key in keys]
        found = [item for item in changed if [str(item.get(key)) for key in keys] == names]
        if not found:
            wanted = ", ".join(map(" ".join, zip(keys, names, strict=True)))
            raise errors.Invalid(
                _(
                    "No item of the install plan has %(wanted)s. Read the plan, then send "
                    "the patch.",
                    wanted=wanted,
                ),
                field=f"patches[{number}]",
            )
        for item in found:
            item.update({name: patch[name] for name in PATCHABLE if name in patch})
    return changed


def lock(device: Device) -> None:
    """Lock the device, so that two changes do not write the same version."""
    Device.objects.select_for_update().get(pk=device.pk)


def write(device: Device, installs: list[Any], script: str, note: str, actor: str) -> InstallPlan:
    version = current(device).version + 1
    plan = InstallPlan.objects.create(
        device=device,
        version=version,
        installs=installs,
        after_update_script=script,
        change_note=note,
        updated_by=actor,
    )
    device.install_plans.filter(version__lte=version - KEPT_VERSIONS).delete()
    audit.note_row(device, "device.install_plan_changed", version=version, note=note)
    ref = {"config_id": device.pk, "version": version, "installs_hash_b64": plan.installs_hash}
    signals.emit([device.pk], "install.updated", ref)
    return plan
