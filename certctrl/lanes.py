"""Lanes: how many threads of a worker may be in calls to one outside party.

A lane is one outside party: a CA, a DNS API, the resolvers, a receiver of webhooks. Every call
that leaves goes through `enter()`. A party that answers well may have all threads. One that does
not answer has two, so a dead party costs two threads and not all. One that has not answered lately
may be dead too, and has two until its first answer. One that answers slowly has half. An owner
whose calls are slow, or may be, has half as well, over all lanes.

Many new webhooks may be dead at once, and each is a lane of its own. So half of the threads may be
in calls to new parties as long as to any other. Calls of the other half end after DOUBT. While one
of them has lasted that long, other new parties have one thread.

The newest answer decides, and all workers share it in the cache. When the cache is lost, it is
learned again from the next answer.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from typing import NamedTuple

from django.core.cache import cache

from certctrl import board, clock
from certctrl.board import Call
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble, Wait

IN_TROUBLE = 2  # calls at a time to a party that is in trouble
KEPT = 3600  # seconds for which an answer counts, without a newer one
FRESH = 1.0  # seconds for which a process believes what it read
PAUSES = {True: 10.0, False: 1.0}  # seconds until the next try, by whether the lane is in trouble
# Codes of Trouble that say that the party is away. All others are answers.
AWAY = frozenset(
    (
        "ca_unreachable",
        "ca_error",
        "dns_unreachable",
        "dns_bad_answer",
        "webhook_unreachable",
        "master_key_unreachable",
        "mail_unreachable",
        "probe_unreachable",
    )
)


class Standing(StrEnum):
    """The newest answer of a lane. UNKNOWN: there was none lately."""

    UNKNOWN = ""
    WELL = "well"
    SLOW = "slow"
    TROUBLE = "trouble"


class Lane(NamedTuple):
    """One outside party. `name` is for people.

    `is_judged`: what ends the body of `enter()` is the party's answer. It is false for the
    resolvers, because an owner's own name servers may be what is silent. Then the caller notes.
    `ends_early`: a call to it may be ended early and made again, as long as it is unknown.
    """

    key: str
    name: str
    is_judged: bool = True
    ends_early: bool = False


class Full(Wait):
    """The lane or the owner has all the threads that it may have. Nothing was called."""


# By the key of a lane: the newest answer, and when it was read.
_read: dict[str, tuple[Standing, float]] = {}


def forget() -> None:
    """Forget what this process has read."""
    _read.clear()


def standing_of(lane: str) -> Standing:
    """Return the newest answer of the lane with this key, as any worker saw it."""
    found, at = _read.get(lane, (Standing.UNKNOWN, float("-inf")))
    if clock.monotonic() - at <= FRESH:
        return found
    found = Standing(cache.get(f"lane:{lane}") or "")
    _read[lane] = found, clock.monotonic()
    return found


def note(lane: str, answer: Standing) -> None:
    """Store the newest answer of the lane, if it is another one than before."""
    if answer != standing_of(lane):
        cache.set(f"lane:{lane}", answer.value, KEPT)
        _read[lane] = answer, clock.monotonic()


def most(lane: Lane, threads: int) -> int:
    """Return how many of `threads` the lane may have."""
    half = max(1, threads // 2)
    answer = standing_of(lane.key)
    if answer == Standing.TROUBLE or _is_unknown(lane):
        return min(IN_TROUBLE, half)
    return threads if answer == Standing.WELL or not lane.is_judged else half


@contextmanager
def enter(lane: Lane | None, owner: int | None = None) -> Iterator[None]:
    """Hold a thread for calls to one party, on behalf of an owner (an id).

    The end of the body is the party's answer. Raise Full, before any call, when the lane or the
    owner has no thread left. Without a lane, do nothing.
    """
    if lane is None:
        yield
        return
    with _place_for(lane, owner):
        try:
            yield
        except Trouble as trouble:
            # The trouble of an inner lane is not the answer of this one.
            trouble.lane = trouble.lane or lane.key
            if lane.is_judged and trouble.lane == lane.key:
                note(lane.key, Standing.TROUBLE if trouble.code in AWAY else _speed())
            raise
        if lane.is_judged:
            note(lane.key, _speed())


def _speed() -> Standing:
    own = board.place.get()
    if board.board is None or own is None:
        return Standing.WELL
    return Standing.SLOW if board.board.read(own).is_late else Standing.WELL


@contextmanager
def _place_for(lane: Lane, owner: int | None) -> Iterator[None]:
    """Show on the board that this thread is in the lane. Inside another lane, it leaves that."""
    shown = board.board
    if shown is None:
        yield
        return
    outer = board.place.get()
    number = board.number_of(lane.key)
    if outer is not None and shown.read(outer).lane == number:  # it has its thread already
        yield
        return
    _refuse_more(shown, lane, number, owner or 0, outer)
    own = shown.take() if outer is None else outer
    if own is None:
        yield
        return
    before = shown.read(own) if outer is not None else None
    is_sick = standing_of(lane.key) in (Standing.TROUBLE, Standing.SLOW)
    may_last = is_sick or _is_unknown(lane)
    is_new = _is_new(lane)
    shown.write(own, Call(number, owner or 0, clock.monotonic(), may_last, is_new))
    token = board.place.set(own)
    is_short = is_new and _newcomers(shown, own) >= max(1, shown.threads // 2)
    try:
        with clock.limit(board.DOUBT) if is_short else nullcontext():
            yield
    finally:
        board.place.reset(token)
        if before is None:
            shown.free(own)
        else:
            shown.write(own, before._replace(since=clock.monotonic()))


def _newcomers(shown: board.Board, own: int) -> int:
    """Return how many other threads are in calls to new parties."""
    return sum(each.is_new for each in shown.calls(own))


def _is_new(lane: Lane) -> bool:
    return lane.ends_early and standing_of(lane.key) == Standing.UNKNOWN


def _is_unknown(lane: Lane) -> bool:
    """Return whether the party may be dead, and a call to it would last as long as it may."""
    is_waited_for = lane.is_judged and not lane.ends_early
    return is_waited_for and standing_of(lane.key) == Standing.UNKNOWN


def _refuse_more(shown: board.Board, lane: Lane, number: int, owner: int, but: int | None) -> None:
    """Raise Full when this lane, or this owner, has all the threads that it may have."""
    calls = shown.calls(but)
    same = [each for each in calls if each.lane == number]
    slow = [each for each in calls if each.is_slow]
    half = max(1, shown.threads // 2)
    answer = standing_of(lane.key)
    may_have = most(lane, shown.threads)
    if lane.is_judged and any(each.is_slow for each in same):
        may_have = min(may_have, half)
    is_well = may_have == shown.threads
    if len(same) >= may_have or (not is_well and len(slow) >= max(1, shown.threads * 3 // 4)):
        is_known = answer != Standing.UNKNOWN or any(each.is_late for each in same)
        # A party that was not called lately is not blamed.
        what = _(
            "It waits for its turn, because %(name)s answers late or not at all.", name=lane.name
        )
        raise Full(PAUSES[answer == Standing.TROUBLE], what if is_known else "", imposed=True)
    if is_well and lane.is_judged:
        return
    new = [each.is_doubtful for each in calls if each.is_new]
    if any(new) and not all(new) and _is_new(lane):
        raise Full(PAUSES[False], imposed=True)
    theirs = [each for each in slow if each.owner == owner]
    if not lane.is_judged:  # it is well, but not for names whose own servers are silent
        theirs = [each for each in theirs if each.lane == number]
    if owner and len(theirs) >= half:
        what = _("It waits for its turn, because other calls of the same owner take long.")
        take_long = any(each.is_late for each in theirs)
        raise Full(PAUSES[False], what if take_long else "", imposed=True)
