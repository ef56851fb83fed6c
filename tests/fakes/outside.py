"""Everything beyond the process, as one place that every call goes through: recorded, and able to kill the caller."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Died(BaseException):
    """The worker was killed: nothing catches this."""


@dataclass
class Outside:
    """`calls` are the names of the calls so far; `die_at` is (index, "before" | "after") of the call that kills."""

    calls: list[str] = field(default_factory=list)
    die_at: tuple[int, str] | None = None

    def call(self, name: str, effect: Callable[[], Any]) -> Any:
        index = len(self.calls)
        self.calls.append(name)
        if self.die_at == (index, "before"):
            raise Died(name)
        result = effect()
        if self.die_at == (index, "after"):
            raise Died(name)
        return result
