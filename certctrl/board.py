"""Shows which thread of this worker is in a call, to whom, for whom and since when.

The board is shared memory, because the threads of a worker may be forked children. Each has a slot
of its own. A slot of a killed child stays until the child that replaces it takes the slot.
"""

import hashlib
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from multiprocessing.sharedctypes import RawArray
from typing import NamedTuple

from billiard import current_process

from certctrl import clock

SLOW = 3.0  # seconds; a call that takes longer holds up others


class Held(NamedTuple):
    """One thread in a call. `lane` and `owner` are numbers, `since` is in monotonic seconds."""

    lane: int
    owner: int
    since: float
    is_sick: bool

    @property
    def is_late(self) -> bool:
        """Whether the call takes long already."""
        return clock.monotonic() - self.since > SLOW

    @property
    def is_slow(self) -> bool:
        """Whether the thread may be in the call for long: it is already, or is expected to be."""
        return self.is_sick or self.is_late


def number_of(lane: str) -> int:
    """Return the number that stands for a lane on the board. It is never 0."""
    return int.from_bytes(hashlib.blake2b(lane.encode(), digest_size=8).digest()) | 1


class Board:
    """The slots of `threads` threads, or forked children."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._lanes = RawArray("Q", threads)
        self._owners = RawArray("Q", threads)
        self._since = RawArray("d", threads)
        self._sick = RawArray("b", threads)
        self._lock = threading.Lock()

    def held(self, but: int | None = None) -> list[Held]:
        """Return what the threads are in, without that of the slot `but`."""
        return [
            self.read(each) for each in range(self.threads) if self._lanes[each] and each != but
        ]

    def read(self, slot: int) -> Held:
        return Held(
            self._lanes[slot], self._owners[slot], self._since[slot], bool(self._sick[slot])
        )

    def take(self) -> int | None:
        """Return a free slot. Return None when there is none, so that this thread is not shown."""
        with self._lock:
            for slot in self._slots():
                if not self._lanes[slot]:
                    self._lanes[slot] = 1
                    return slot
        return None

    def _slots(self) -> Sequence[int]:
        """Return the slots that this process may take: one for a forked child."""
        index = getattr(current_process(), "index", None)
        if index is None:
            return range(self.threads)
        own = index % self.threads
        self._lanes[own] = 0  # a killed child may have left it
        return (own,)

    def write(self, slot: int, held: Held) -> None:
        self._lanes[slot] = held.lane
        self._owners[slot] = held.owner
        self._since[slot] = held.since
        self._sick[slot] = held.is_sick

    def free(self, slot: int) -> None:
        self._lanes[slot] = 0

    def begin_again(self, slot: int) -> None:
        """Note that the thread begins another call to the same party."""
        self._since[slot] = clock.monotonic()


# The board of this worker. None in a process that is no worker.
board: Board | None = None
slot: ContextVar[int | None] = ContextVar("slot", default=None)


def open_board(threads: int) -> None:
    """Make the board of this worker. Call this before its children are forked."""
    global board
    board = Board(threads)


def begin_again() -> None:
    """Note that this thread begins another call."""
    own = slot.get()
    if board and own is not None:
        board.begin_again(own)
