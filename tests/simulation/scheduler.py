"""One thread, many actors, one clock. An actor runs until it pauses, then the next in time runs.

Actors are greenlets, so the engine's own code pauses in the middle of an outside call and does not
notice. Events at the same time run in the order in which they were planned, so the same seed gives
the same run.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from greenlet import greenlet

START = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass(eq=False)
class Actor:
    """A worker, the clock or a person. `skew` is the error of its wall clock in seconds."""

    name: str
    skew: float = 0.0
    greenlet: Any = None
    planned: float | None = None  # when it goes on; None while it is parked or runs
    turns: list[Any] = field(default_factory=list)  # the rows that it claimed, newest last
    calling: str = ""  # the outside call that it is inside of
    was_held: bool = False  # since its message began

    def forget(self) -> None:
        """Reset the actor for a new task."""
        self.turns = []
        self.calling = ""
        self.was_held = False


class Scheduler:
    def __init__(self) -> None:
        self.passed = 0.0
        self.actor: Actor | None = None
        self.trace: list[str] = []
        self._events: list[tuple[float, int, Actor | None, Callable[[], None]]] = []
        self._planned = 0
        self._actors: list[Actor] = []

    # --- time ---

    def true_now(self) -> datetime:
        return START + timedelta(seconds=self.passed)

    def now(self) -> datetime:
        """Return the wall clock of the running actor."""
        return START + timedelta(seconds=self.passed + (self.actor.skew if self.actor else 0.0))

    def monotonic(self) -> float:
        return self.passed

    # --- actors ---

    def spawn(self, actor: Actor, body: Callable[[], None], delay: float = 0.0) -> Actor:
        actor.greenlet = greenlet(body)
        self._actors.append(actor)
        self.wake(actor, delay)
        return actor

    def pause(self, seconds: float) -> None:
        """Continue the running actor after `seconds` seconds."""
        assert self.actor
        self.wake(self.actor, seconds)
        self.park()

    def park(self) -> None:
        """Stop the running actor until another one wakes it."""
        assert self.actor
        self.actor.greenlet.parent.switch()

    def wake(self, actor: Actor, seconds: float) -> None:
        """Continue the actor after `seconds` seconds, or at its planned time if that is earlier."""
        at = self.passed + seconds
        if actor.planned is None or at < actor.planned:
            actor.planned = at
            self._plan(seconds, actor, lambda: self._resume(actor))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Run an effect later without an actor, for example a late request or an act of the CA."""
        self._plan(seconds, None, act)

    def _plan(self, seconds: float, actor: Actor | None, act: Callable[[], None]) -> None:
        self._planned += 1
        heapq.heappush(self._events, (self.passed + seconds, self._planned, actor, act))

    def _resume(self, actor: Actor) -> None:
        actor.planned = None
        self.actor = actor
        try:
            actor.greenlet.switch()
        finally:
            self.actor = None

    # --- the run ---

    def step(self) -> bool:
        """Run the next event. Return False when there is none."""
        while self._events:
            at, _, actor, act = heapq.heappop(self._events)
            if actor and actor.planned != at:
                continue  # it was woken sooner
            self.passed = at
            act()
            return True
        return False

    def note(self, what: str) -> None:
        who = self.actor.name if self.actor else "-"
        self.trace.append(f"{self.passed:10.1f} {who:7} {what}")

    def close(self) -> None:
        """End every actor at its current place."""
        for actor in self._actors:
            if actor.greenlet and not actor.greenlet.dead:
                self.actor = actor
                actor.greenlet.throw()
        self.actor = None
