"""Which due attempts get a message, and in which order.

An attempt counts for the lanes that its next steps call, and for its owner. A lane in trouble has
two attempts on their way, until it answers well. An owner has a part of all while others wait.

Attempts that wait for their records are looked at in batches. They take no room of the others. One
of each batch is marked, and stands for the message of all.
"""

from datetime import datetime, timedelta
from functools import cache, lru_cache
from typing import Any, NamedTuple

from django.conf import settings
from django.db.models import Q

from certctrl import dispatch
from certctrl.dispatch import Parties, Shares
from certctrl.statements import Parameter, Select
from certctrl.turns import SKEW
from issuance import workflow
from issuance.calls import COLUMNS, Calls
from issuance.models import Issuance

State = Issuance.State
# Attempts that publish again and are on their way at once. So attempts that wait for lagging
# servers hold up no others.
AGAIN = 100
# Messages of looks that are on their way at once. Each looks at batches until none is due.
LOOKS = 4
# Messages of attempts that go on at once, beyond those of all others. Many new attempts do not hold
# them up.
MORE_BEGUN = dispatch.SHARE
# Messages of attempts that have begun and wait for the outside, among those of all others.
WAITING = dispatch.SHARE
# An attempt that waits is young for this long in a step. It asks 13 times at most meanwhile.
YOUNG = timedelta(seconds=30)
# A young attempt goes first only while more new messages than these are on their way.
SHORT_QUEUE = dispatch.OF_ONE
# Attempts of one owner that go first. The others come after those of owners who ask for little.
FEW = 8

IS_LOOKED_AT = Q(state=State.PRESENTED)
PUBLISHES_AGAIN = Q(state=State.ORDERED, presents__gt=0)
IS_NEW = Q(state=State.QUEUED, slot_at=None)
WAITS = ~Q(state=State.QUEUED) & ~Q(waits_for="")
# After a trouble, the party may be dead. The retry then has the time of the others.
IS_YOUNG = WAITS & Q(stumbles=0, state_since__gt=Parameter("young"))


class Candidate(NamedTuple):
    """A due attempt that may get a message."""

    id: int
    state: str
    priority: int = dispatch.FIRST


class Choice:
    """The attempts that get a message in one sweep."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.chosen: dict[int, Candidate] = {}
        self.shares = Shares(dispatch.OF_ONE)
        self.parties = cache(Calls.parties)
        self.again = self.begun = self.waiting = self.young = 0
        sent = Issuance.objects.on_their_way().exclude(IS_LOOKED_AT)
        columns = ("presents", "slot_at", "waits_for", "stumbles", "state_since", *COLUMNS)
        for presents, slot_at, waits_for, stumbles, since, *values in sent.values_list(*columns):
            calls = Calls(*values)
            is_queued = calls.state == State.QUEUED
            self.shares.add(self.parties(calls))
            self.again += bool(presents and calls.state == State.ORDERED)
            self.begun += bool(slot_at) if is_queued else not waits_for
            waits = not is_queued and bool(waits_for)
            self.waiting += waits
            self.young += waits and not stumbles and since > now - YOUNG

    @property
    def room(self) -> int:
        """Return how many more may be on their way."""
        return dispatch.MOST_ON_THEIR_WAY - self.shares.owners.total()

    @property
    def is_crowded(self) -> bool:
        """Return whether a message that is sent now may be served late."""
        return self.shares.owners.total() - self.begun - self.waiting > SHORT_QUEUE

    def take(self, rows: Q, most: int, *, fairly: bool, priority: int | None = None) -> None:
        """Choose up to `most` of the due attempts in `rows`, the longest waiting first.

        `fairly`: no owner gets more than its share. Without a priority, the first ones of an owner
        go first.
        """
        while most > 0:
            full: set[Q] = set()
            for pk, *values in due(rows, self.now, most + len(self.chosen), *COLUMNS):
                if not most:
                    return
                if pk in self.chosen:
                    continue
                calls = Calls(*values)
                parties = self.parties(calls)
                if self.shares.has_room(parties, fairly=fairly):
                    few = self.shares.owners[parties.owner] < FEW
                    usual = dispatch.FIRST if few else dispatch.LATER
                    self.chosen[pk] = Candidate(
                        pk, calls.state, usual if priority is None else priority
                    )
                    self.shares.add(parties)
                    most -= 1
                else:
                    full.add(self._full(calls, parties, fairly=fairly))
            if not full:
                return
            for others in full:
                rows &= ~others

    def _full(self, calls: Calls, parties: Parties, *, fairly: bool) -> Q:
        """Return the attempts for which there is no room either."""
        if fairly and not self.shares.owner_has_room(parties.owner):
            return Q(account__owner=calls.owner)
        if (lane := calls.ca_lane()) and not self.shares.lane_has_room(lane.key):
            return calls.is_at_ca
        return calls.is_at_dns


def choose(now: datetime) -> list[Candidate]:
    """Return the due attempts that get a message now, the longest waiting first.

    At most 1,000 are on their way at once, and 250 more that go on at once. Those go first. They
    have waited for a slot, which is lost if they come late, or their next step waits for nothing.
    Attempts that have ordered and wait for the outside are 250 of the 1,000, but they go before
    none. Else many that only ask whether a CA is ready would hold up all others.

    Behind many messages, such an attempt would be looked at half a minute late. So the young ones
    go before all others then, in a quarter of a worker's threads at most. More of them wait for the
    next sweep. The other threads serve the others, however many ask and however late the
    CA answers. Attempts that publish again come last.
    """
    choice = Choice(now)
    is_crowded = choice.is_crowded
    rows = ~IS_LOOKED_AT & ~PUBLISHES_AGAIN
    begun = min(MORE_BEGUN - choice.begun, MORE_BEGUN + choice.room)
    choice.take(rows & ~(IS_NEW | WAITS), begun, fairly=False, priority=dispatch.BEGUN)
    waits = WAITS
    if is_crowded:
        most = max(1, settings.WORKER_CONCURRENCY // 4) - choice.young
        choice.take(rows & IS_YOUNG, min(most, choice.room), fairly=False, priority=dispatch.BEGUN)
        waits &= ~IS_YOUNG
    choice.take(rows & waits, min(WAITING - choice.waiting, choice.room), fairly=False)
    choice.take(rows & ~WAITS, choice.room, fairly=True)
    choice.take(rows & ~WAITS, choice.room, fairly=False)
    choice.take(PUBLISHES_AGAIN, min(AGAIN - choice.again, choice.room), fairly=False)
    return list(choice.chosen.values())


def to_look_at(now: datetime) -> tuple[list[int], list[Candidate]]:
    """Return one due attempt for each message of a look, and those with a look of their own.

    A message is sent for each 500 attempts that are due, those that are due longest. At most LOOKS
    are on their way. One that is older than the lease of a look is lost, or waits behind others.

    An attempt that a worker left behind gets a look of its own. It may have killed the worker, and
    in a batch the death would count for all rows.
    """
    oldest = due(IS_LOOKED_AT, now, LOOKS * workflow.BATCH, "holder")
    if not oldest:
        return [], []
    lately = now - timedelta(seconds=workflow.LEASE)
    sent = Issuance.objects.on_their_way().filter(IS_LOOKED_AT, holder="", queued_at__gte=lately)
    room = max(0, LOOKS - sent.count())
    shared = [pk for pk, holder in oldest if not holder][: room * workflow.BATCH]
    left_behind = [Candidate(pk, State.PRESENTED) for pk, holder in oldest if holder]
    return shared[:: workflow.BATCH], left_behind


def due(rows: Q, now: datetime, most: int, *columns: str) -> list[Any]:
    """Return the id and `columns` of due attempts without a message, the longest waiting first."""
    resend = now - timedelta(seconds=settings.RESEND)
    read = _compiled(rows, columns)
    return read(at=now, resend=resend, ahead=now + SKEW, young=now - YOUNG, most=most)


@lru_cache(maxsize=256)
def _compiled(rows: Q, columns: tuple[str, ...]) -> Select[Any]:
    found = Issuance.objects.filter(rows).due(Parameter("at"))
    found = found.without_message(Parameter("resend"), Parameter("ahead"))
    read = found.order_by("wake_at").values_list("id", *columns)
    return Select(read, most=Parameter("most"))
