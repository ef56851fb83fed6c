"""The reports of devices: a version was installed or served, or why not."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import structlog
from django.db import OperationalError, transaction

from certctrl import clock
from certctrl.sentences import printable
from devices.models import Device
from issuance import notify
from issuance.models import Certificate, CertificateVersion, Deployment

log = structlog.get_logger()
Failure = Deployment.Failure


class Report(NamedTuple):
    """One event of a device about a version: `state` is one of STATES."""

    certificate: int
    serial: str
    state: str
    what: str


STATES = ("installed", "served", "rolled_back", "failed")


def note_fetched(device: Device, version: CertificateVersion) -> None:
    """Store that the device got the key of this version. The response must succeed without it."""
    rows = Deployment.objects.filter(certificate=version.certificate_id, device=device)
    fields = {"fetched_serial": version.serial, "fetched_at": clock.now()}
    try:
        rows.exclude(fetched_serial=version.serial).update(**fields)
    except OperationalError as exc:  # for example, the disk is full
        log.warning("deployment.not_noted", error=type(exc).__name__)


def note_reports(device: Device, reports: Iterable[Report]) -> None:
    """Store the reports of a device.

    Ignore a certificate that it does not have, and a version that does not exist. Both may have
    been true when the device sent the report.
    """
    for report in reports:
        _note(device, report)


@transaction.atomic
def _note(device: Device, report: Report) -> None:
    rows = Certificate.objects.filter(
        pk=report.certificate, retired_at=None, deployments__device=device
    )
    certificate = rows.select_for_update(of=("self",)).first()
    serial = normalized(report.serial)
    if not certificate or not certificate.versions.filter(serial=serial).exists():
        log.info("report.ignored", device=device.pk, certificate=report.certificate)
        return
    deployment = certificate.deployments.select_related("device").get(device=device)
    current = certificate.current
    is_current = current is not None and serial == current.serial
    fields = columns_of(deployment, report, serial, clock.now())
    if is_current and report.state == "served":
        fields["wake_at"] = None
    certificate.deployments.filter(pk=deployment.pk).update(**fields)
    for name, value in fields.items():
        setattr(deployment, name, value)
    if not is_current:
        return
    if report.state == "served":
        # The canary has proved the version. The sweep offers it to the others.
        certificate.deployments.exclude(wanted=current).update(wake_at=clock.now())
    elif report.state in Failure.values:
        notify.deployment_failed(certificate, deployment)


def columns_of(
    deployment: Deployment, report: Report, serial: str, now: datetime
) -> dict[str, Any]:
    """Return the columns that the report changes. A success ends the failure of its version."""
    well = {"failure": "", "failure_what": "", "failed_serial": "", "failed_at": None}
    ended = well if deployment.failed_serial == serial else {}
    match report.state:
        case "installed":
            return {"installed_serial": serial, "installed_at": now, **ended}
        case "served":
            installed = (
                {}
                if deployment.installed_serial == serial
                else {"installed_serial": serial, "installed_at": now}
            )
            return {"served_serial": serial, "served_at": now, **installed, **ended}
    gone: dict[str, Any] = {}
    if report.state == Failure.ROLLED_BACK:
        for done in ("installed", "served"):
            if getattr(deployment, f"{done}_serial") == serial:
                gone |= {f"{done}_serial": "", f"{done}_at": None}
    what = printable(report.what)
    failed = {"failure": report.state, "failure_what": what, "failed_serial": serial}
    return {**failed, "failed_at": now, **gone}


def normalized(serial: str) -> str:
    """Return a serial number as versions store it: hex in lower case, without zeros before it."""
    return serial.replace(":", "").lower().removeprefix("0x").lstrip("0")
