"""Which request gets which fault. Rules have a probability, a count and paths."""

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

# Faults that replace the CA's response:
# The response has the rule's `status`. With `retry_after` it comes from a busy CA. Otherwise it
# comes from a server in front of the CA.
ANSWER = "answer"
DROP_BEFORE = "drop_before"  # the CA never gets the request
BAD_NONCE = "bad_nonce"  # for a signed request, with a fresh nonce
ALREADY_REPLACED = "already_replaced"  # for a new order that replaces a certificate
INSTEAD = (ANSWER, DROP_BEFORE, BAD_NONCE, ALREADY_REPLACED)
# Faults after the CA's response:
DROP_AFTER = "drop_after"  # the CA acted, but the client gets no response
# A valid order is shown as processing, for `reads` reads and `seconds` seconds.
PROCESSING = "processing"
KINDS = (*INSTEAD, DROP_AFTER, PROCESSING)


@dataclass
class Fault:
    """A rule. A request gets the first rule that matches it and that wins its draw."""

    do: str
    probability: float = 1.0
    times: int | None = None  # hits that are left; null for no limit
    run: int = 1  # the number of hits in a row; more than 1 is a storm
    # Prefixes of paths, or names of the directory (newOrder). Empty for every request.
    paths: tuple[str, ...] = ()
    status: int = 503
    retry_after: int | None = None  # seconds
    reads: int = 0
    seconds: float = 0.0
    running: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.do not in KINDS:
            raise ValueError(f"there is no fault {self.do}; allowed are {KINDS}")
        self.paths = tuple(self.paths)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Fault":
        """Return a rule from JSON. Raise ValueError for an unknown member."""
        known = {each.name for each in fields(cls) if each.init}
        if unknown := set(document) - known:
            raise ValueError(f"a fault has no {sorted(unknown)}; allowed are {sorted(known)}")
        return cls(**document)

    def is_for(self, path: str, endpoint: str) -> bool:
        return not self.paths or endpoint in self.paths or path.startswith(self.paths)

    def hits(self, chance: random.Random) -> bool:
        """Return whether the rule hits now. A storm hits without a draw."""
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
    """The current rules. The caller must hold a lock."""

    def __init__(self, rules: Iterable[Mapping[str, Any]] = (), seed: int | None = None) -> None:
        self.hits: Counter[str] = Counter()
        self._chance = random.Random(seed)  # noqa: S311 - a lot, no secret
        self.set(rules)

    def set(self, rules: Iterable[Mapping[str, Any]]) -> None:
        """Replace the rules."""
        self.rules = [Fault.of(each) for each in rules]

    def draw(self, kinds: Collection[str], path: str, endpoint: str) -> Fault | None:
        """Return the first rule of these kinds that hits the request, or None."""
        for rule in self.rules:
            if rule.do in kinds and rule.is_for(path, endpoint) and rule.hits(self._chance):
                self.hits[rule.do if rule.do != ANSWER else str(rule.status)] += 1
                return rule
        return None
