"""Rows that workers take turns on: the row is the queue, `wake_at` and `holder` schedule everything.

`wake_at` is when somebody should act: the polling interval, the retry backoff and, while a turn is in progress, the
end of its lease. `holder` is the random token of that turn, empty when nobody has the row. A worker that died leaves
its token behind; the next claim after the lease finds it and counts a death.
"""

import os
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from multiprocessing.sharedctypes import RawValue
from typing import Any, ClassVar, Self, TypeVar

import structlog
from django.conf import settings
from django.db import models, transaction
from django.db.models import Case, F, Q, Value, When

from certctrl import clock

log = structlog.get_logger()

RETRIES = (
    10,
    30,
    60,
    120,
    300,
    600,
    1200,
    1800,
)  # seconds after the nth Trouble in a row; the last one repeats
MAX_DEATHS = 5  # a row that kills workers must not do so for ever
A_DAY = timedelta(days=1)
SKEW = timedelta(seconds=60)  # by how much another machine's clock may be behind
SWEPT = "sweep_ended_at"  # in the cache: epoch seconds, written at the end of each sweep
MOST_SAID = 4000  # characters of a sentence
MOST_LOOKED_AT = 1000  # due rows, to choose from


class Stopping:
    """Set on SIGTERM: finish the call in hand and put the row back. One byte that forked children share, since they
    are not told; no lock, which a killed child would keep."""

    def __init__(self) -> None:
        self._flag = RawValue("b", 0)

    def set(self) -> None:
        self._flag.value = 1

    def is_set(self) -> bool:
        return bool(self._flag.value)


stopping = Stopping()


def printable(what: str) -> str:
    """The sentence without characters that nobody can read, and no longer than anybody reads: others are quoted in it,
    it is kept with each attempt and event, and no column takes a NUL."""
    what = what if len(what) <= MOST_SAID else what[: MOST_SAID - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return (
        what
        if what.isprintable()
        else "".join(each if each.isprintable() else " " for each in what)
    )


class Wait(Exception):
    """Nothing is wrong, it only takes time: look again in so many seconds; `asked` when the other side named them."""

    def __init__(self, seconds: float, what: str = "", *, asked: bool = False) -> None:
        super().__init__(what)
        self.seconds = seconds
        self.what = printable(what)
        self.asked = asked


class Trouble(Exception):
    """Something failed. `what` is a sentence for a person, `retry_after` seconds as the other side asked."""

    def __init__(
        self, code: str, what: str, permanent: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(what)
        self.code = code
        self.what = printable(what)
        self.permanent = permanent
        self.retry_after = retry_after


class LostTurn(Exception):
    """The row went to other hands: a lease that ran out, or a person who canceled. Write nothing more."""


def retry_pause(stumbles: int, trouble: Trouble) -> float:
    """Seconds until the next try after `stumbles` Troubles in a row, this one included: by the table, later when the
    other side asked for it."""
    return max(RETRIES[min(stumbles, len(RETRIES)) - 1], trouble.retry_after or 0)


def new_token() -> str:
    """A turn's token, at most 32 characters: the process that takes the turn, for whoever looks, and 64 random bits."""
    return f"{os.getpid()}-{secrets.token_hex(8)}"


Row = TypeVar("Row", bound="Turns")


class TurnsQuerySet(models.QuerySet[Row]):
    def due(self, at: datetime) -> Self:
        return self.filter(wake_at__lte=at)

    def sendable(self, at: datetime) -> Self:
        """Due, with no message on its way."""
        resend = at - timedelta(seconds=settings.RESEND)
        lost = Q(queued_at__lt=resend) | Q(
            queued_at__gt=at + SKEW
        )  # or sent by a clock that was ahead
        return self.due(at).filter(Q(queued_at=None) | lost)

    def on_their_way(self) -> Self:
        """Those with a message on its way."""
        now = clock.now()
        since = now - timedelta(seconds=settings.RESEND)
        return self.filter(wake_at__isnull=False, queued_at__range=(since, now + SKEW))

    def sendable_of_each(self, at: datetime, of: str, most: int) -> Self:
        """What is sendable, those that waited longest first, so that no more than `most` are on their way that have the
        same `of`: one owner, or one server, that is slow holds up nobody else's."""
        busy = Counter(self.on_their_way().values_list(of, flat=True))
        full = [each for each, count in busy.items() if count >= most]
        chosen = []
        sendable = self.sendable(at)
        others = sendable.exclude(**{f"{of}__in": full}).order_by("wake_at")
        for pk, each in others.values_list("pk", of)[:MOST_LOOKED_AT]:
            busy[each] += 1
            if busy[each] <= most:
                chosen.append(pk)
        return sendable.filter(pk__in=chosen)

    def claim_fields(self, at: datetime) -> dict[str, Any]:
        """What a claim writes besides the token."""
        died = Case(When(holder="", then=Value(0)), default=Value(1))
        return {"wake_at": at + timedelta(seconds=settings.LEASE), "deaths": F("deaths") + died}

    def claim(self, pk: int, *, due: bool = True, **needs: Any) -> Row | None:
        """Take the row for one turn, or return None: not due, not as needed, or taken.

        With `due=False` a row that nobody holds is taken whatever its backoff.
        """
        at, token = clock.now(), new_token()
        rows = self.filter(pk=pk, **needs)
        rows = rows.due(at) if due else rows.filter(Q(holder="") | Q(wake_at__lte=at))
        if not rows.update(holder=token, **self.claim_fields(at)):
            return None
        for row in self.filter(pk=pk, holder=token):  # one at most, which needs no order
            return row.begin()
        return None

    def claim_batch(self, most: int, *, lease: float, turn: float, **needs: Any) -> list[Row]:
        """Take up to `most` due rows, those that waited longest first, all with one token, for a turn of `turn` seconds
        under a lease of `lease`."""
        at, token = clock.now(), new_token()
        due = self.filter(**needs).due(at)
        fields = self.claim_fields(at) | {"wake_at": at + timedelta(seconds=lease)}
        with (
            transaction.atomic()
        ):  # others pass over the rows that we are taking, or all would take the same ones
            oldest = due.order_by("wake_at").select_for_update(skip_locked=True)
            ids = list(oldest.values_list("pk", flat=True)[:most])
            if not ids or not due.filter(pk__in=ids).update(holder=token, **fields):
                return []
        return [row.begin(turn) for row in self.filter(pk__in=ids, holder=token)]

    @contextmanager
    def turn(self, pk: int, *, due: bool = True, **needs: Any) -> Iterator[Row]:
        """One turn with the row, which the body ends with `release()`. Raises Wait while another has it in hand.

        A Trouble that leaves the body puts the row to sleep by the retry table, and goes on to the caller.
        """
        row = self.claim(pk, due=due, **needs)
        if row is None:
            raise Wait(2, "another worker has it in hand")
        if row.deaths >= MAX_DEATHS:
            row.rest(A_DAY)
            raise Wait(A_DAY.total_seconds(), "workers died on it five times in a row")
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
                row.stumble(Trouble("internal", "an error of this server"))
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
        )

    _breaths = 0
    _ends = 0.0

    def begin(self, seconds: float | None = None) -> Self:
        """Start the clock of a turn that was claimed."""
        self._ends = clock.monotonic() + (settings.TURN if seconds is None else seconds)
        self._breaths = 0
        return self

    def turn_left(self) -> float:
        """Seconds until this turn must be over."""
        return max(0.0, self._ends - clock.monotonic())

    def mine(self) -> "models.QuerySet[Self]":
        """This row as the turn in progress sees it: no row at all once the turn is lost."""
        if not self.holder:
            raise LostTurn
        return type(self)._base_manager.filter(pk=self.pk, holder=self.holder)

    def write(self, **fields: Any) -> None:
        """Update these columns while the turn is ours; LostTurn and nothing written otherwise."""
        if not self.mine().update(**fields):
            raise LostTurn
        for name, value in fields.items():
            if not hasattr(value, "resolve_expression"):
                setattr(self, name, value)

    @contextmanager
    def fence(self) -> Iterator[None]:
        """A transaction that commits only while the turn is ours; when it does not, this object is as it was before."""
        before = self._columns()
        try:
            with transaction.atomic():
                if not self.mine().update(holder=self.holder):
                    raise LostTurn
                yield
        except (
            BaseException
        ):  # what the object has must be what the row has, or the turn could not be ended
            for name, value in before.items():
                setattr(self, name, value)
            raise

    def _columns(self) -> dict[str, Any]:
        names = [each.attname for each in self._meta.concrete_fields]
        return {name: self.__dict__[name] for name in names if name in self.__dict__}

    def release(self, wake_at: datetime | None, **fields: Any) -> None:
        """End the turn well; the row sleeps until `wake_at`, for ever when that is None."""
        self.write(
            **{"holder": "", "queued_at": None, "stumbles": 0, "deaths": 0, "wake_at": wake_at}
            | fields
        )

    def rest(self, pause: timedelta, **fields: Any) -> None:
        """End the turn because it must wait; nothing is written when the turn was lost meanwhile."""
        try:
            self.release(clock.now() + pause, **fields)
        except LostTurn:
            log.info("turn.lost", row=str(self))

    def stumble(self, trouble: Trouble) -> None:
        """End the turn after a Trouble: sleep by the retry table, or for as long as the other side asks."""
        stumbles = self.stumbles + 1
        pause = timedelta(seconds=retry_pause(stumbles, trouble))
        # A day at most: a Retry-After of a week, by mistake, would keep a record in its zone.
        self.rest(min(pause, A_DAY), stumbles=stumbles)

    def breathe(self) -> None:
        """Stand before each outward call of a loop: raises LostTurn when the row is no longer ours, and Wait(0) when
        the turn is nearly over or the worker is being stopped, though never before a turn's first call."""
        if self._breaths and (stopping.is_set() or self.turn_left() < settings.TURN / 4):
            raise Wait(0)
        self._breaths += 1
        if not self.mine().exists():
            raise LostTurn

    def __str__(self) -> str:
        return f"{type(self).__name__} {self.pk}"
