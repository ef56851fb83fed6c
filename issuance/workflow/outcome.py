"""The result of a step, and the event about it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from certctrl import clock
from issuance.models import Issuance, IssuanceEvent

Outcome = IssuanceEvent.Outcome


def event(
    issuance: Issuance,
    step: str,
    outcome: str,
    what: str,
    took: float = 0,
    at: datetime | None = None,
) -> None:
    """Write an event for the owner of the attempt. `took` is in seconds. `at` is now by default.

    Call it inside the fence in which the described change is written. The end of the fence stores
    all events in one statement.
    """
    issuance.new_events.append(
        IssuanceEvent(
            issuance=issuance,
            at=at or clock.now(),
            step=step,
            outcome=outcome,
            what=what,
            took_ms=round(took * 1000),
        )
    )


@dataclass(frozen=True)
class Done:
    """The result of a step that is done.

    `what` is the text of the event. `fields` are more columns of the attempt to write. `write`
    writes other rows, inside the transaction that moves the state.
    `to` is the next state when it is not the usual one. `again` has the ids of what
    must be presented again, by the type of challenge.
    """

    what: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    write: Callable[[], object] | None = None
    to: str = ""
    again: Mapping[str, Sequence[int]] = field(default_factory=dict)
