"""Look at once which certificate an address serves, and keep the address for daily probes."""

from typing import Any

from django.db import transaction

from accounts.audit import note_row
from certctrl import addresses, clock, outward
from certctrl.errors import Conflict, Invalid
from certctrl.sentences import sentence as _
from certctrl.turns import A_DAY, Trouble
from issuance import probes
from issuance.models import Certificate, Probe
from issuance.probes import Target

MOST_PROBES = 20  # of one certificate


def probe_now(certificate: Certificate, target: Target, *, daily: bool) -> Probe:
    """Return what the target serves, as a row. It is stored with `daily` only.

    Raise Invalid for an address that this server may not call. Raise Conflict when the certificate
    has too many daily probes.
    """
    owner = certificate.owner
    found, error = None, ""
    with outward.for_owner(owner.pk), addresses.named_by_tenant(not owner.is_staff):
        try:
            found = probes.look(target)
        except Trouble as trouble:
            if trouble.code == "probe_refused":
                raise Invalid(trouble.what, field="address") from None
            error = trouble.what
    columns = probes.columns_of(found, error)
    if not daily:
        return Probe(certificate=certificate, **target._asdict(), **columns)
    return _keep(certificate, target, columns)


@transaction.atomic
def _keep(certificate: Certificate, target: Target, columns: dict[str, Any]) -> Probe:
    Certificate.objects.select_for_update().get(pk=certificate.pk)
    others = Probe.objects.filter(certificate=certificate).exclude(**target._asdict())
    if others.count() >= MOST_PROBES:
        raise Conflict(
            _(
                "%(domain)s has %(most_probes)s daily probes, the most that is allowed. "
                "Delete one first.",
                domain=certificate.domain,
                most_probes=MOST_PROBES,
            )
        )
    due = {"wake_at": clock.now() + A_DAY}
    row, is_new = Probe.objects.get_or_create(
        certificate=certificate, **target._asdict(), defaults={**columns, **due}
    )
    if is_new:
        note_row(certificate, "certificate.probe_added", address=str(row), sni=row.sni)
    else:
        Probe.objects.filter(pk=row.pk).update(**columns)
        row.refresh_from_db()
    return row


@transaction.atomic
def forget_probe(probe: Probe) -> None:
    """Delete a daily probe."""
    note_row(probe.certificate, "certificate.probe_removed", address=str(probe), sni=probe.sni)
    probe.delete()
