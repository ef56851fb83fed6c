"""The daily probes. Each is a row with its own turns."""

from datetime import datetime
from typing import Any

from authorities import pki
from certctrl import addresses, clock, lanes
from certctrl.lanes import Lane
from certctrl.turns import A_DAY, Trouble
from issuance import notify
from issuance.models import Probe
from issuance.probes import handshake
from issuance.probes.handshake import Target


def lane_of(address: str, port: int) -> Lane:
    return Lane(f"probe:{address}:{port}", f"{address}:{port}")


def run(probe_id: int) -> None:
    """Look what the address serves, and store it. Raise Wait while another worker holds the row.

    When it is not the current version in time, the owner gets a notice.
    """
    rows = Probe.objects.select_related("certificate__owner", "certificate__current__issuance")
    with rows.turn(probe_id) as probe:
        certificate = probe.certificate
        if certificate.retired_at:
            return probe.give_back(None)
        found, error = _looked(probe)
        now = clock.now()
        fields = columns_of(found, error)
        with probe.fence(**probe.ending(_next_at(probe, now), **fields)):
            if not probe.shows_current:
                notify.not_served_at(probe, now)
    return None


def _looked(probe: Probe) -> tuple[pki.Facts | None, str]:
    """Return what the address serves, or None and the reason.

    A probe that fails is a result like any other. Only the lane sees the Trouble.
    """
    owner = probe.certificate.owner
    target = Target(probe.address, probe.port, probe.sni, probe.starttls)
    try:
        with (
            lanes.enter(lane_of(probe.address, probe.port), owner.pk),
            addresses.named_by_tenant(not owner.is_staff),
        ):
            return handshake.look(target), ""
    except Trouble as trouble:
        return None, trouble.what


def columns_of(found: pki.Facts | None, error: str) -> dict[str, Any]:
    """Return the columns of a probe that have its result."""
    return {
        "probed_at": clock.now(),
        "serial": found.serial if found else "",
        "fingerprint": found.fingerprint if found else "",
        "not_after": found.not_after if found else None,
        "error_what": error,
    }


def _next_at(probe: Probe, now: datetime) -> datetime:
    """Return the time of the next look: in a day, or when a new version must be served."""
    current = probe.certificate.current
    due = current and notify.must_be_served_at(current)
    return due if due and now < due < now + A_DAY else now + A_DAY
