"""One place that every call of a fake goes through. It records calls, and it can kill a worker."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Died(BaseException):
    """The worker was killed. No code of the server catches this exception."""


@dataclass
class Outside:
    """The recorder of calls.

    `calls` has the names of the calls so far. `die_at` is (index, "before" or "after"). The call
    with this index raises Died before or after its effect.
    """

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
