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
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from multiprocessing.sharedctypes import RawValue
from typing import Any, ClassVar, Self, TypeVar

import structlog
from django.conf import settings
from django.db import connections, models, transaction
from django.db.models import Case, F, Q, Value, When
from django.db.models.sql import Query, UpdateQuery
from django.db.models.sql.compiler import SQLCompiler

from certctrl import board, clock

log = structlog.get_logger()

# Seconds to wait after the nth Trouble in a row. The last value repeats. A pause is about half of
# the time since the first Trouble, so a short outage ends in a short wait.
RETRIES = (10, 20, 30, 60, 90, 120, 180, 300, 600, 1200, 1800)
MAX_DEATHS = 5  # deaths in a row; a row that kills workers must not do so for ever
A_DAY = timedelta(days=1)
SKEW = timedelta(seconds=60)  # how far another machine's clock may be behind
SWEPT = "sweep_ended_at"  # cache key: when the last sweep ended, in epoch seconds
MOST_SAID = 4000  # characters of a stored sentence
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


def printable(what: str) -> str:
    """Return the sentence with unprintable characters as spaces, cut to MOST_SAID characters.

    Sentences quote text from other servers, and each attempt and event stores them. No text column
    accepts a NUL character.
    """
    what = what if len(what) <= MOST_SAID else what[: MOST_SAID - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return (
        what
        if what.isprintable()
        else "".join(each if each.isprintable() else " " for each in what)
    )


class Wait(Exception):
    """Ends a turn that is not ready yet. It is not a failure. Try again in `seconds`.

    `imposed` is true when the other side named the number of seconds. `own` is the number of
    seconds that the turn would have waited without that.
    """

    def __init__(
        self, seconds: float, what: str = "", *, imposed: bool = False, own: float = 0.0
    ) -> None:
        super().__init__(what)
        self.seconds = seconds
        self.what = printable(what)
        self.imposed = imposed
        self.own = own


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
        self.permanent = permanent
        self.retry_after = retry_after


class LostTurn(Exception):
    """The turn was lost: the lease ran out, or a person canceled. Write nothing more."""


def retry_pause(stumbles: int, trouble: Trouble | None = None) -> float:
    """Return the seconds until the next try. `stumbles` counts Troubles in a row, with this one.

    The pause comes from RETRIES. It is longer when `trouble` says that the other side asked for
    more.
    """
    asked = trouble.retry_after if trouble else None
    return max(RETRIES[min(stumbles, len(RETRIES)) - 1], asked or 0)


def new_token() -> str:
    """Return a token for a turn: the process id and 64 random bits, at most 32 characters.

    The process id lets people see which process holds the row.
    """
    return f"{os.getpid()}-{secrets.token_hex(8)}"


Row = TypeVar("Row", bound="Turns")


class UpdateAndRead(Query):
    """A SELECT of the rows that an UPDATE in the same statement changes, with their relations.

    The UPDATE is a common table expression with the name of the table. So the SELECT reads the
    changed rows only, with their new values. PostgreSQL has this, SQLite does not.
    """

    update_sql = ""
    update_params: tuple[Any, ...] = ()

    def get_compiler(self, *args: Any, **kwargs: Any) -> SQLCompiler:
        compiler: SQLCompiler = super().get_compiler(*args, **kwargs)
        select = compiler.as_sql

        def as_sql(*args: Any, **kwargs: Any) -> tuple[str, tuple[Any, ...]]:
            sql, params = select(*args, **kwargs)
            table = compiler.quote_name_unless_alias(self.get_meta().db_table)
            changed = f"WITH {table} AS ({self.update_sql} RETURNING {table}.*)"
            return f"{changed} {sql}", (*self.update_params, *params)

        compiler.as_sql = as_sql  # type: ignore[method-assign]
        return compiler


class TurnsQuerySet(models.QuerySet[Row]):
    def due(self, at: datetime) -> Self:
        return self.filter(wake_at__lte=at)

    def sendable(self, at: datetime) -> Self:
        """Return the due rows that have no message on its way."""
        resend = at - timedelta(seconds=settings.RESEND)
        # Also resend a message from the future: the clock of its sender was ahead.
        lost = Q(queued_at__lt=resend) | Q(queued_at__gt=at + SKEW)
        return self.due(at).filter(Q(queued_at=None) | lost)

    def on_their_way(self) -> Self:
        """Return the rows that have a message on its way."""
        now = clock.now()
        since = now - timedelta(seconds=settings.RESEND)
        return self.filter(wake_at__isnull=False, queued_at__range=(since, now + SKEW))

    def claim_fields(self, at: datetime) -> dict[str, Any]:
        """Return the columns that a claim writes, without the token."""
        died = Case(When(holder="", then=Value(0)), default=Value(1))
        return {"wake_at": at + timedelta(seconds=settings.LEASE), "deaths": F("deaths") + died}

    def claim(self, pk: int, *, due: bool = True, **needs: Any) -> Row | None:
        """Claim the row for one turn and return it.

        Return None when the row is not due, does not match `needs`, or is held by another worker.
        With `due=False`, a row that nobody holds is claimed before its `wake_at`.
        """
        at = clock.now()
        token = new_token()
        rows = self.filter(pk=pk, **needs)
        rows = rows.due(at) if due else rows.filter(Q(holder="") | Q(wake_at__lte=at))
        fields = {"holder": token, **self.claim_fields(at)}
        if connections[self.db].vendor == "postgresql":
            claimed = self._update_and_read(rows, fields)
        elif rows.update(**fields):
            claimed = self.filter(pk=pk, holder=token)
        else:
            return None
        for row in claimed:  # at most one row, so no order is needed
            return row.begin()
        return None

    def _update_and_read(self, rows: Self, fields: dict[str, Any]) -> Self:
        """Return `rows` as they are after the UPDATE. Reading them once runs the UPDATE."""
        update: Any = rows.query.chain(UpdateQuery)
        update.add_update_values(fields)
        read = self.all()
        query: Any = read.query.chain(UpdateAndRead)
        query.update_sql, query.update_params = update.get_compiler(self.db).as_sql()
        read.query = query
        return read

    def claim_batch(self, most: int, *, lease: float, turn: float, **needs: Any) -> list[Row]:
        """Claim up to `most` due rows under one token, oldest `wake_at` first, and return them.

        `turn` is the length of the turn in seconds. `lease` is the length of the lease in seconds.
        """
        at = clock.now()
        token = new_token()
        due = self.filter(**needs).due(at)
        fields = self.claim_fields(at) | {"wake_at": at + timedelta(seconds=lease)}
        with transaction.atomic():
            # skip_locked: parallel workers must not all choose the same rows.
            oldest = due.order_by("wake_at").select_for_update(skip_locked=True)
            ids = list(oldest.values_list("pk", flat=True)[:most])
            if not ids or not due.filter(pk__in=ids).update(holder=token, **fields):
                return []
        return [row.begin(turn) for row in self.filter(pk__in=ids, holder=token)]

    @contextmanager
    def turn(self, pk: int, *, due: bool = True, **needs: Any) -> Iterator[Row]:
        """Claim the row for one turn. The body ends the turn with `release()`.

        Raise Wait when another worker holds the row. A Wait that leaves the body ends the turn
        until the wait is over. A Trouble sets `wake_at` by the retry table. Both are raised again
        for the caller. After MAX_DEATHS deaths in a row, the row rests for a day and Wait is
        raised.
        """
        row = self.claim(pk, due=due, **needs)
        if row is None:
            raise Wait(2, "The server is already working on it.")
        if row.deaths >= MAX_DEATHS:
            row.rest(A_DAY)
            raise Wait(
                A_DAY.total_seconds(), "The server failed five times in a row while working on it."
            )
        try:
            with clock.limit(settings.TURN):
                yield row
        except Wait as wait:
            if row.holder:
                row.rest(timedelta(seconds=wait.seconds))
            raise
        except Trouble as trouble:
            if row.holder:
                row.stumble(trouble)
            raise
        except LostTurn:
            raise
        except Exception:
            if row.holder:
                what = "Internal error. It is retried; the server log has the details."
                row.stumble(Trouble("internal", what))
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

    def write(self, **fields: Any) -> None:
        """Update these columns. Raise LostTurn, and write nothing, after the turn was lost."""
        if not self.write_unless_changed({}, fields):
            raise LostTurn

    def write_unless_changed(self, before: dict[str, Any], fields: dict[str, Any]) -> bool:
        """Update these columns if the row still has the values of `before`.

        Return False when it has others. Raise LostTurn after the turn was lost.
        """
        if not self.mine().filter(**before).update(**fields):
            if not self.mine().exists():
                raise LostTurn
            return False
        self._checked = clock.monotonic()
        for name, value in fields.items():
            if not hasattr(value, "resolve_expression"):
                setattr(self, name, value)
        return True

    @contextmanager
    def fence(self, **fields: Any) -> Iterator[None]:
        """Open a transaction that commits only while this turn holds the row.

        Its first statement writes `fields`. With the columns of `ending()` it ends the turn. Raise
        LostTurn when the turn was lost. After any error this object has its old values again.
        """
        with self.atomic():
            self.write(**(fields or {"holder": self.holder}))
            yield

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Open a transaction in which the caller calls `write`, which raises LostTurn.

        It saves the first statement of `fence`. Before `write`, only insert rows. The lock of this
        row comes first, or two transactions may wait for each other. After any error this object
        has its old values again.
        """
        before = self._columns()
        try:
            with transaction.atomic():
                yield
        except BaseException:
            # The object must match the row, or the turn could not be ended.
            for name, value in before.items():
                setattr(self, name, value)
            raise

    def _columns(self) -> dict[str, Any]:
        names = [each.attname for each in self._meta.concrete_fields]
        return {name: self.__dict__[name] for name in names if name in self.__dict__}

    @staticmethod
    def ending(wake_at: datetime | None, **fields: Any) -> dict[str, Any]:
        """Return the columns that end a turn and set `wake_at`. With None the row sleeps."""
        ended = {"holder": "", "queued_at": None, "stumbles": 0, "deaths": 0, "wake_at": wake_at}
        return ended | fields

    def release(self, wake_at: datetime | None, **fields: Any) -> None:
        """End the turn and set `wake_at`. With None the row sleeps for ever."""
        self.write(**self.ending(wake_at, **fields))

    def rest(self, pause: timedelta, **fields: Any) -> None:
        """End the turn and sleep for `pause`. Write nothing after the turn was lost."""
        try:
            self.release(clock.now() + pause, **fields)
        except LostTurn:
            log.info("turn.lost", row=str(self))

    def stumble(self, trouble: Trouble) -> None:
        """End the turn after a Trouble, and sleep for retry_pause(), at most one day."""
        stumbles = self.stumbles + 1
        pause = timedelta(seconds=retry_pause(stumbles, trouble))
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
        if not is_fresh and not self.mine().exists():
            raise LostTurn

    def __str__(self) -> str:
        return f"{type(self).__name__} {self.pk}"
