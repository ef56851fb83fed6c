"""The second step: write the TXT records into the zone."""

from certctrl.turns import Trouble
from dnsproviders import records
from issuance.challenges import delegation
from issuance.models import Authorization, Issuance
from issuance.workflow.outcome import Done

State = Issuance.State


def present(issuance: Issuance) -> Done:
    """Publish the TXT record of each pending authorization.

    Raise the provider's Wait and Trouble, with a text for the owner of the certificate.
    """
    pending = issuance.authorizations.filter(
        status=Authorization.Status.PENDING, record__isnull=False
    )
    wanted = sorted(set(pending.values_list("record_id", flat=True)))
    for record_id in wanted:
        issuance.breathe()
        try:
            records.publish(record_id)
        except Trouble as trouble:
            raise delegation.for_owner(issuance.certificate, issuance.credential, trouble) from None
    # A record that is published again does not show at once. So end the turn, and the next look
    # is part of a batch.
    return Done(
        f"{len(wanted)} TXT records are in the zone",
        to=State.PRESENTED if issuance.presents else "",
    )
