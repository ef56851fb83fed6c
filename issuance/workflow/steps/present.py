"""The second step: make what the CA will look for."""

from certctrl.sentences import joined
from certctrl.sentences import sentence as _
from issuance.challenges import registry
from issuance.models import Issuance
from issuance.workflow.outcome import Done
from issuance.workflow.steps import authorizations

State = Issuance.State


def present(issuance: Issuance) -> Done:
    """Present the challenge of each pending authorization. Raise the challenge's Wait and Trouble.

    A record that is published again does not show at once. So an attempt that presents again leaves
    the chain, and the next look is part of a batch.
    """
    pending = authorizations.pending_of([issuance])
    said = [
        registry.of(kind).present(issuance, rows[issuance.pk]) for kind, rows in pending.items()
    ]
    return Done(
        joined("; ", said) or _("the CA needs no proof"),
        to=State.PRESENTED if issuance.presents else "",
    )
