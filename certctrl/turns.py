"""Base model and query set for rows that workers act on, one turn at a time.

The row is the queue. Two columns schedule everything. docs/architecture.md explains how a turn
works.

`wake_at` is when a worker should act. It holds the polling interval and the retry backoff. During a
turn it holds the end of the lease.

`holder` is the random token of the turn in progress. It is empty when no worker holds the row. A
worker that died leaves its token behind. The next claim after the lease finds the token and counts
a death.
"""

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache
from multiprocessing.sharedctypes import RawValue
from typing import Any, ClassVar, Self, TypeVar

import structlog
from django.conf import settings
from django.db import connections, models, transaction
from django.db.models import Case, DateTimeField, F, Q, Value, When

from certctrl import board, clock
from certctrl.sentences import printable
from certctrl.sentences import sentence as _
from certctrl.statements import Parameter, Select, Update

log = structlog.get_logger()

# Seconds to wait after the nth Trouble in a row. The last value repeats. A pause is about half of
# the time since the first Trouble, so a short outage ends in a short wait.
RETRIES = (10, 20, 30, 60, 90, 120, 180, 300, 600, 1200, 1800)
MAX_DEATHS = 5  # deaths in a row; a row that kills workers must not do so for ever
A_DAY = timedelta(days=1)
SKEW = timedelta(seconds=60)  # how far another machine's clock may be behind
SWEPT = "sweep_ended_at"  # cache key: when the last sweep ended, in epoch seconds
TIME: "DateTimeField[Any, Any]" = DateTimeField()
CHECKED_WITHIN = 1.0  # seconds; breathe() trusts a write that is younger, once


class Stopping:
    """The flag that SIGTERM sets: finish the current call, then put the row back.

    The flag is one byte of shared memory, because forked children do not get the signal. It has no
    lock, because a killed child would keep the lock.
    """

    def __init__(self) -> None:
        self._flag = RawValue("b", 0)

    def set(self) -> None:
        self._flag.value = 1

    def is_set(self) -> bool:
        return bool(self._flag.value)


stopping = Stopping()


class Wait(Exception):
    """Ends a turn that is not ready yet. It is not a failure. Try again in `seconds`.

    `imposed` is true when the other side named the number of seconds. `own` is the number of
    seconds that the turn would have waited without that. `fields` are columns that the end of the
    turn writes.
    """

    def __init__(
        self,
        seconds: float,
        what: str = "",
        *,
        imposed: bool = False,
        own: float = 0.0,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(what)
        self.seconds = seconds
        self.what = printable(what)
        self.imposed = imposed
        self.own = own
        self.fields = dict(fields or {})


class Trouble(Exception):
    """Ends a turn that failed.

    `what` is a sentence for a person. `permanent` means that a retry would fail too. `retry_after`
    is the number of seconds that the other side asked for.
    """

    def __init__(
        self, code: str, what: str, permanent: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(what)
        self.code = code
        self.what = printable(what)
        self.lane = ""  # the key of the lane that it was raised in
        self.permanent = permanent
        self.retry_after = retry_after


class LostTurn(Exception):
    """The turn was lost: the lease ran out, or a person canceled. Write nothing more."""


def retry_pause(stumbles: int, asked: float | None = None) -> float:
    """Return the seconds until the next try. `stumbles` counts Troubles in a row, with this one.

    The pause comes from RETRIES. It is longer when the other side `asked` for more seconds.
    """
    return max(RETRIES[min(stumbles, len(RETRIES)) - 1], asked or 0)


def new_token() -> str:
    """Return a token for a turn: the process id and 64 random bits, at most 32 characters.

    The process id lets people see which process holds the row.
    """
    return f"{os.getpid()}-{secrets.token_hex(8)}"


def late_at(at: datetime) -> datetime:
    """Return the time before which a turn that begins `at` should have begun."""
    return at - timedelta(seconds=settings.RESEND) - SKEW


Row = TypeVar("Row", bound="Turns")


def _parameter(model: type[models.Model], kind: str, name: str) -> Parameter:
    field: Any = model._meta.get_field(name)
    return Parameter(f"{kind} {name}", field)


# The statements of claims that are compiled already, by all that their SQL depends on.
_claims: dict[Any, tuple[Update, Select[Any]]] = {}


@cache
def _compiled_update(
    model: "type[Turns]",
    before: tuple[str, ...],
    unset: frozenset[str],
    columns: tuple[str, ...],
) -> Update:
    """Return the UPDATE of the row that a turn holds. Those in `unset` are null before it."""
    mine = model._base_manager.filter(pk=Parameter("of pk"), holder=Parameter("of holder"))
    same = {name: None if name in unset else _parameter(model, "was", name) for name in before}
    return Update(mine.filter(**same), {name: _parameter(model, "to", name) for name in columns})


@cache
def _compiled_check(model: "type[Turns]") -> Select[Any]:
    mine = model._base_manager.filter(pk=Parameter("pk"), holder=Parameter("holder"))
    return Select(mine.values_list("pk"))


class TurnsQuerySet(models.QuerySet[Row]):
    def due(self, at: datetime | Parameter) -> Self:
        return self.filter(wake_at__lte=at)

    def sendable(self, at: datetime) -> Self:
        """Return the due rows that have no message on its way."""
        resend = at - timedelta(seconds=settings.RESEND)
        return self.due(at).without_message(resend, at + SKEW)

    def without_message(self, resend: datetime | Parameter, ahead: datetime | Parameter) -> Self:
        """Return the rows without a message that was sent between `resend` and `ahead`.

        A message from the future is sent again too: the clock of its sender was ahead.
        """
        lost = Q(queued_at__lt=resend) | Q(queued_at__gt=ahead)
        return self.filter(Q(queued_at=None) | lost)

    def has_due(self) -> bool:
        """Return whether there is a row, of a query set of due rows.

        The index of `wake_at` is read in its order. Without an order, PostgreSQL may read the whole
        table for `exists()`, because it expects to find a row soon.
        """
        return bool(self.order_by("wake_at").values_list("pk")[:1])

    def on_their_way(self) -> Self:
        """Return the rows that have a message on its way."""
        now = clock.now()
        since = now - timedelta(seconds=settings.RESEND)
        return self.filter(wake_at__isnull=False, queued_at__range=(since, now + SKEW))

    def claim_fields(self, at: Any, ends: Any, late: Any) -> dict[str, Any]:
        """Return the columns that a claim writes, without the token.

        `at` is now, and the lease ends at `ends`. A turn that was due before `late` begins late.
        """
        died = Case(When(holder="", then=Value(0)), default=Value(1))
        return {"wake_at": ends, "deaths": F("deaths") + died}

    def claim(self, pk: int, *, due: bool = True, **needs: Any) -> Row | None:
        """Claim the row for one turn and return it.

        Return None when the row is not due, does not match `needs`, or is held by another worker.
        With `due=False`, a row that nobody holds is claimed before its `wake_at`.
        """
        at = clock.now()
        values = {
            "pk": pk,
            "token": new_token(),
            "at": at,
            "ends": at + timedelta(seconds=settings.LEASE),
            "late": late_at(at),
            **needs,
        }
        update, read = self._claim_statements(due, tuple(needs))
        if read.is_update or update(**values):
            for row in read(**values):  # at most one
                begun: Row = row.begin()
                return begun
        return None

    def _claim_statements(self, due: bool, needs: tuple[str, ...]) -> tuple[Update, Select[Row]]:
        """Return the UPDATE of a claim, and the SELECT of the claimed row.

        On PostgreSQL the SELECT has the UPDATE in it, and is all that is needed. Call this on a
        query set without conditions.
        """
        assert not self.query.where, "a claim takes its conditions as arguments"
        reads = (str(self.query.select_related), str(self.query.deferred_loading))
        key = (self.model, reads, due, needs)
        if key not in _claims:
            at, token = Parameter("at", TIME), Parameter("token")
            row = self.filter(pk=Parameter("pk"))
            rows = row.filter(**{name: Parameter(name) for name in needs})
            rows = rows.due(at) if due else rows.filter(Q(holder="") | Q(wake_at__lte=at))
            fields = self.claim_fields(at, Parameter("ends", TIME), Parameter("late", TIME))
            update = Update(rows, {"holder": token, **fields})
            is_one = connections[self.db].vendor == "postgresql"
            read = Select(self.all(), update) if is_one else Select(row.filter(holder=token))
            _claims[key] = update, read
        return _claims[key]

    def claim_batch(self, most: int, *, lease: float, turn: float, **needs: Any) -> list[Row]:
        """Claim up to `most` due rows under one token, oldest `wake_at` first, and return them.

        `turn` is the length of the turn in seconds. `lease` is the length of the lease in seconds.
        """
        at = clock.now()
        token = new_token()
        due = self.filter(**needs).due(at)
        fields = self.claim_fields(at, at + timedelta(seconds=lease), late_at(at))
        with transaction.atomic():
            # skip_locked: parallel workers must not all choose the same rows.
            oldest = due.order_by("wake_at").select_for_update(skip_locked=True)
            ids = list(oldest.values_list("pk", flat=True)[:most])
            if not ids:
                return []
            # By the ids alone. They are locked, and without statistics PostgreSQL may read all
            # due rows to find them.
            self.model._base_manager.filter(pk__among=ids).update(holder=token, **fields)
        return [row.begin(turn) for row in self.filter(pk__among=ids, holder=token)]

    @contextmanager
    def turn(self, pk: int, *, due: bool = True, **needs: Any) -> Iterator[Row]:
        """Claim the row for one turn. The body ends the turn with `give_back()`.

        Raise Wait when another worker holds the row. A Wait that leaves the body ends the turn
        until the wait is over. A Trouble sets `wake_at` by the retry table. Both are raised again
        for the caller. After MAX_DEATHS deaths in a row, the row rests for a day and Wait is
        raised.
        """
        row = self.claim(pk, due=due, **needs)
        if row is None:
            raise Wait(2, _("The server is already working on it."))
        if row.deaths >= MAX_DEATHS:
            row.rest(A_DAY)
            raise Wait(
                A_DAY.total_seconds(),
                _("The server failed five times in a row while working on it."),
            )
        try:
            with clock.limit(settings.TURN):
                yield row
        except LostTurn:
            raise
        except Exception as why:
            if row.holder and isinstance(why, Wait):
                row.rest(timedelta(seconds=why.seconds))
            elif row.holder:
                what = _("Internal error. It is retried; the server log has the details.")
                row.stumble(why if isinstance(why, Trouble) else Trouble("internal", what))
            raise


class Turns(models.Model):
    wake_at = models.DateTimeField(null=True, blank=True)
    holder = models.CharField(max_length=32, default="", blank=True, editable=False)
    queued_at = models.DateTimeField(null=True, blank=True, editable=False)
    stumbles = models.PositiveSmallIntegerField(default=0, editable=False)
    deaths = models.PositiveSmallIntegerField(default=0, editable=False)

    class Meta:
        abstract = True
        indexes: ClassVar[tuple[models.Index, ...]] = (
            models.Index(
                fields=["wake_at"], condition=Q(wake_at__isnull=False), name="%(class)s_wake_at"
            ),
            models.Index(
                fields=["queued_at"],
                condition=Q(queued_at__isnull=False),
                name="%(class)s_queued_at",
            ),
        )

    _breaths = 0
    _ends = 0.0
    _checked = 0.0
    _carried: "tuple[Mapping[str, Any], tuple[Callable[[], object], ...]]" = ({}, ())

    def begin(self, seconds: float | None = None) -> Self:
        """Start the clock of a claimed turn. `seconds` is its length, TURN by default."""
        self._checked = clock.monotonic()
        self._ends = self._checked + (settings.TURN if seconds is None else seconds)
        self._breaths = 0
        return self

    def turn_left(self) -> float:
        """Return the seconds until this turn must end."""
        return max(0.0, self._ends - clock.monotonic())

    def mine(self) -> "models.QuerySet[Self]":
        """Return a query set of this row, limited to the turn in progress.

        The set is empty after the turn was lost. Raise LostTurn when `holder` is empty.
        """
        if not self.holder:
            raise LostTurn
        return type(self)._base_manager.filter(pk=self.pk, holder=self.holder)

    @property
    def carries(self) -> bool:
        """Whether this turn has something to write with its next write."""
        return bool(self._carried[1])

    def carry(self, act: Callable[[], object], **fields: Any) -> None:
        """Let the next write of this turn write `fields` too, and call `act` in its transaction.

        Nothing is written before that. So a worker that dies has not done it. The write begins
        another turn, under a token of its own.
        """
        columns, acts = self._carried
        self._carried = {**columns, **fields}, (*acts, act)
        for name, value in fields.items():
            setattr(self, name, value)

    def forget_carried(self) -> None:
        """Do not write what is carried, and read the row again. Raise LostTurn."""
        self._carried = {}, ()
        try:
            self.refresh_from_db(from_queryset=self.mine())
        except type(self).DoesNotExist:
            raise LostTurn from None

    def write(self, **fields: Any) -> None:
        """Update these columns. Raise LostTurn, and write nothing, after the turn was lost."""
        if self.carries:
            with self.fence(**fields):
                return
        self.write_unless_changed({}, fields)

    def write_unless_changed(self, before: dict[str, Any], fields: dict[str, Any]) -> bool:
        """Update these columns, to plain values, if the row still has the values of `before`.

        Return False when it has others. Raise LostTurn after the turn was lost.
        """
        if not self._update(before, fields):
            if not self._is_mine():
                raise LostTurn
            return False
        self._checked = clock.monotonic()
        for name, value in fields.items():
            setattr(self, name, value)
        return True

    def _update(self, before: dict[str, Any], fields: dict[str, Any]) -> int:
        """Update these columns as `write_unless_changed` does. Return the number of rows."""
        if not self.holder:
            raise LostTurn
        unset = frozenset(name for name, value in before.items() if value is None)
        update = _compiled_update(type(self), tuple(before), unset, tuple(fields))
        values = {"of pk": self.pk, "of holder": self.holder}
        values |= {f"was {name}": value for name, value in before.items()}
        values |= {f"to {name}": value for name, value in fields.items()}
        return update(**values)

    def _is_mine(self) -> bool:
        check = _compiled_check(type(self))
        return bool(self.holder and check(pk=self.pk, holder=self.holder))

    @contextmanager
    def fence(self, **fields: Any) -> Iterator[None]:
        """Open a transaction that commits only while this turn holds the row.

        Its first statement writes `fields`. With the columns of `ending()` it ends the turn. Raise
        LostTurn when the turn was lost. After any error this object has its old values again.
        """
        with self.atomic():
            columns, acts = self._carried
            self._carried = {}, ()
            begun = {**columns, **self.beginning()} if acts else {}
            self.write(**(begun | fields or {"holder": self.holder}))
            for act in acts:
                act()
            yield

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Open a transaction in which the caller calls `write`, which raises LostTurn.

        It saves the first statement of `fence`. Before `write`, only insert rows. The lock of this
        row comes first, or two transactions may wait for each other. After any error this object
        has its old values again.
        """
        names = ["_carried", *(each.attname for each in self._meta.concrete_fields)]
        before = {name: self.__dict__[name] for name in names if name in self.__dict__}
        try:
            with transaction.atomic():
                yield
        except BaseException:
            # The object must match the row, or the turn could not be ended.
            for name, value in before.items():
                setattr(self, name, value)
            raise

    @staticmethod
    def ending(wake_at: datetime | None, **fields: Any) -> dict[str, Any]:
        """Return the columns that end a turn and set `wake_at`. With None the row sleeps."""
        ended = {"holder": "", "queued_at": None, "stumbles": 0, "deaths": 0, "wake_at": wake_at}
        return ended | fields

    @staticmethod
    def beginning() -> dict[str, Any]:
        """Return the columns that begin another turn, under a token of its own.

        If the reply of the COMMIT is lost, this turn cannot write its old values over the new ones.
        """
        return {"holder": new_token(), "wake_at": clock.now() + timedelta(seconds=settings.LEASE)}

    def give_back(self, wake_at: datetime | None, **fields: Any) -> None:
        """End the turn and set `wake_at`. With None the row sleeps for ever."""
        self.write(**self.ending(wake_at, **fields))

    def rest(self, pause: timedelta, **fields: Any) -> None:
        """End the turn and sleep for `pause`. Write nothing after the turn was lost."""
        try:
            self.give_back(clock.now() + pause, **fields)
        except LostTurn:
            log.info("turn.lost", row=str(self))

    def stumble(self, trouble: Trouble) -> None:
        """End the turn after a Trouble, and sleep for retry_pause(), at most one day."""
        stumbles = self.stumbles + 1
        pause = timedelta(seconds=retry_pause(stumbles, trouble.retry_after))
        # The limit is one day. A mistaken Retry-After of a week would keep a TXT record in its
        # zone.
        self.rest(min(pause, A_DAY), stumbles=stumbles)

    def breathe(self) -> None:
        """Call this before each outward call of a loop.

        Raise LostTurn when this turn no longer holds the row. The row is not read when the turn
        wrote it less than CHECKED_WITHIN ago, and made no outward call since. Raise Wait(0) when
        less than a quarter of TURN is left, or the worker is stopping. The first call of a turn
        never raises Wait.
        """
        if self._breaths and (stopping.is_set() or self.turn_left() < settings.TURN / 4):
            raise Wait(0)
        self._breaths += 1
        board.begin_again()
        is_fresh = self.holder and clock.monotonic() - self._checked < CHECKED_WITHIN
        self._checked = float("-inf")
        if not is_fresh and not self._is_mine():
            raise LostTurn

    def __str__(self) -> str:
        return f"{type(self).__name__} {self.pk}"
