"""Which request meets which fault: rules with a probability, a count and the paths that they are for."""

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

# Instead of an answer of the CA:
ANSWER = "answer"  # the rule's `status`: of a CA that is busy where `retry_after` is set, else of what stands before it
DROP_BEFORE = "drop_before"  # the CA never hears of the request
BAD_NONCE = "bad_nonce"  # to a signed request, with a fresh nonce
ALREADY_REPLACED = "already_replaced"  # to a new order that replaces a certificate
INSTEAD = (ANSWER, DROP_BEFORE, BAD_NONCE, ALREADY_REPLACED)
# After the CA's answer:
DROP_AFTER = "drop_after"  # the CA did it, and the client does not hear of it
PROCESSING = (
    "processing"  # a valid order is shown as processing for `reads` reads and `seconds` seconds
)
KINDS = (*INSTEAD, DROP_AFTER, PROCESSING)


@dataclass
class Fault:
    """A rule. A request is hit by the first rule that is for it and whose lot is drawn."""

    do: str
    probability: float = 1.0
    times: int | None = None  # hits that are left; null: without end
    run: int = 1  # a hit is followed by others until there are so many: a storm
    paths: tuple[
        str, ...
    ] = ()  # beginnings of paths, or the directory's names (newOrder); empty: every request
    status: int = 503
    retry_after: int | None = None  # seconds
    reads: int = 0
    seconds: float = 0.0
    running: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.do not in KINDS:
            raise ValueError(f"there is no fault {self.do}; there are {KINDS}")
        self.paths = tuple(self.paths)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Fault":
        """From JSON. ValueError for what no rule has."""
        known = {each.name for each in fields(cls) if each.init}
        if unknown := set(document) - known:
            raise ValueError(f"a fault has no {sorted(unknown)}; it has {sorted(known)}")
        return cls(**document)

    def is_for(self, path: str, endpoint: str) -> bool:
        return not self.paths or endpoint in self.paths or path.startswith(self.paths)

    def hits(self, chance: random.Random) -> bool:
        """Draw the lot, unless a storm is on."""
        if self.running:
            self.running -= 1
            return True
        if self.times == 0 or chance.random() >= self.probability:
            return False
        if self.times is not None:
            self.times -= 1
        self.running = self.run - 1
        return True


class Faults:
    """The rules in force. Whoever calls holds a lock."""

    def __init__(self, rules: Iterable[Mapping[str, Any]] = (), seed: int | None = None) -> None:
        self.hits: Counter[str] = Counter()
        self._chance = random.Random(seed)  # noqa: S311 - a lot, no secret
        self.set(rules)

    def set(self, rules: Iterable[Mapping[str, Any]]) -> None:
        """Other rules instead."""
        self.rules = [Fault.of(each) for each in rules]

    def draw(self, kinds: Collection[str], path: str, endpoint: str) -> Fault | None:
        """The fault of one of these kinds that hits the request."""
        for rule in self.rules:
            if rule.do in kinds and rule.is_for(path, endpoint) and rule.hits(self._chance):
                self.hits[rule.do if rule.do != ANSWER else str(rule.status)] += 1
                return rule
        return None
