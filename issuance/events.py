"""What an attempt tells its owner."""

from certctrl import clock
from issuance.models import Issuance, IssuanceEvent

Outcome = IssuanceEvent.Outcome


def event(issuance: Issuance, step: str, outcome: str, what: str, took: float = 0) -> None:
    """Tell the owner what happened; inside the fence of what is told. `took` is seconds."""
    IssuanceEvent.objects.create(
        issuance=issuance, at=clock.now(), step=step, outcome=outcome, what=what, took_ms=round(took * 1000)
    )
