"""Shows which thread of this worker is in a call, to whom, for whom and since when.

The board is shared memory, because the threads of a worker may be forked children. Each has a place
of its own. A place of a killed child stays until the child that replaces it takes the place.
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
DOUBT = 2.0  # seconds; a new party that takes longer may be dead


class Call(NamedTuple):
    """One thread in a call. `lane` and `owner` are numbers, `since` is in monotonic seconds.

    `may_last`: the party answers late or not at all, or has not answered lately. `is_new`: it has
    not answered lately, and its calls may end early.
    """

    lane: int
    owner: int
    since: float
    may_last: bool
    is_new: bool = False

    @property
    def is_late(self) -> bool:
        """Whether the call takes long already."""
        return clock.monotonic() - self.since > SLOW

    @property
    def is_doubtful(self) -> bool:
        return self.is_new and clock.monotonic() - self.since > DOUBT

    @property
    def is_slow(self) -> bool:
        """Whether the thread may be in the call for long: it is already, or is expected to be."""
        return self.may_last or self.is_late


def number_of(lane: str) -> int:
    """Return the number that stands for a lane on the board. It is never 0."""
    return int.from_bytes(hashlib.blake2b(lane.encode(), digest_size=8).digest()) | 1


class Board:
    """The places of `threads` threads, or forked children."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._lanes = RawArray("Q", threads)
        self._owners = RawArray("Q", threads)
        self._since = RawArray("d", threads)
        self._lasting = RawArray("b", threads)
        self._new = RawArray("b", threads)
        self._lock = threading.Lock()

    def calls(self, but: int | None = None) -> list[Call]:
        """Return the calls of all threads, without that of the place `but`."""
        return [
            self.read(each) for each in range(self.threads) if self._lanes[each] and each != but
        ]

    def read(self, place: int) -> Call:
        return Call(
            self._lanes[place],
            self._owners[place],
            self._since[place],
            bool(self._lasting[place]),
            bool(self._new[place]),
        )

    def take(self) -> int | None:
        """Return a free place. Return None when there is none, so that this thread is not shown."""
        with self._lock:
            for place in self._places():
                if not self._lanes[place]:
                    self.write(place, Call(1, 0, clock.monotonic(), False))
                    return place
        return None

    def _places(self) -> Sequence[int]:
        """Return the places that this process may take: one for a forked child."""
        index = getattr(current_process(), "index", None)
        if index is None:
            return range(self.threads)
        own = index % self.threads
        self._lanes[own] = 0  # a killed child may have left it
        return (own,)

    def write(self, place: int, call: Call) -> None:
        self._owners[place] = call.owner
        self._since[place] = call.since
        self._lasting[place] = call.may_last
        self._new[place] = call.is_new
        self._lanes[place] = call.lane

    def free(self, place: int) -> None:
        self._lanes[place] = 0

    def begin_again(self, place: int) -> None:
        """Note that the thread begins another call to the same party."""
        self._since[place] = clock.monotonic()


# The board of this worker. None in a process that is no worker.
board: Board | None = None
place: ContextVar[int | None] = ContextVar("place", default=None)


def open_board(threads: int) -> None:
    """Make the board of this worker. Call this before its children are forked."""
    global board
    board = Board(threads)


def begin_again() -> None:
    """Note that this thread begins another call."""
    own = place.get()
    if board and own is not None:
        board.begin_again(own)
