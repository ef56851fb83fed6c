"""How a step ends, and the event that tells it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from certctrl import clock
from issuance.models import Issuance, IssuanceEvent

Outcome = IssuanceEvent.Outcome


def event(issuance: Issuance, step: str, outcome: str, what: str, took: float = 0) -> None:
    """Tell the owner what happened; inside the fence of what is told. `took` is seconds."""
    IssuanceEvent.objects.create(
        issuance=issuance,
        at=clock.now(),
        step=step,
        outcome=outcome,
        what=what,
        took_ms=round(took * 1000),
    )


@dataclass(frozen=True)
class Done:
    """The step is through. `write` runs inside the transaction that moves the state; `to` leads elsewhere than on.

    `again`: the records that are to be published again, by their primary keys.
    """

    what: str
    write: Callable[[], None] | None = None
    to: str = ""
    again: Sequence[int] = ()
