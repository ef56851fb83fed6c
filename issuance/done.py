"""How a step of an attempt ends when it is through; else it raises Wait or Trouble."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Done:
    """The step is through. `write` runs inside the transaction that moves the state; `to` leads elsewhere than on.

    `again`: the records that are to be published again, by their primary keys.
    """

    what: str
    write: Callable[[], None] | None = None
    to: str = ""
    again: Sequence[int] = ()
