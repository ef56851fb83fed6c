"""The log of signals that each device reads: what it should fetch again, and why.

The table is the truth. A device reads what follows its cursor, the id of the last signal that it
has. `devices.waking` tells the web processes that somebody should look.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from django.db import transaction
from django.db.models import BigIntegerField, F, Value
from django.db.models.functions import Greatest

from certctrl import clock, errors
from certctrl.jsonbody import printable
from certctrl.sentences import sentence as _
from devices import waking
from devices.models import Device, DeviceSession, Signal

KEPT = 1000  # signals of one device
MOST = 100  # signals that a waiting connection gets at once
CHUNK = 1000  # devices that one statement reads
RESYNC = "state.resync_required"
TRIMMED_EVERY = 100  # signals of one device; a hundred more than KEPT may be in the table
CURSOR = re.compile(r'(?:W/)?"?([0-9]{1,15})-([0-9]{1,15})"?')


@dataclass(frozen=True, order=True)
class Cursor:
    """The place of a signal in the log of its device, written `<ms>-<seq>`."""

    ts_ms: int = 0
    seq: int = 0

    @classmethod
    def parsed(cls, text: str) -> Self:
        """Return the cursor that `text` writes. It may be in quotes, as an ETag is.

        Raise Invalid.
        """
        found = CURSOR.fullmatch(text.strip())
        if found is None:
            raise errors.Invalid(
                _(
                    "The cursor %(cursor)s is not of the form <ms>-<seq>. Send the cursor of "
                    "the last response, or 0-0 for the start of the log.",
                    cursor=printable(text),
                ),
                field="cursor",
            )
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.ts_ms}-{self.seq}"


START = Cursor()


def moment() -> int:
    return int(clock.now().timestamp() * 1000)


# --- Writing ---


@transaction.atomic(savepoint=False)
def emit(devices: Iterable[int], type: str, ref: Mapping[str, object]) -> None:
    """Write a signal into the log of each device, and wake the waiting ones after the commit.

    Call this in the transaction that makes the signal true, after its other statements. The
    devices are locked until the commit, so that no signal appears before an older one.
    """
    now = moment()
    rows = Device.objects.filter(pk__in=set(devices)).order_by("pk")
    found = rows.select_for_update(no_key=True).values_list("pk", "signal_seq", "signal_ms")
    signals = [
        Signal(device_id=pk, seq=seq + 1, ts_ms=max(ms + 1, now), type=type, ref=dict(ref))
        for pk, seq, ms in found
    ]
    ids = [each.device_id for each in signals]
    if not ids:
        return
    # Without its type, psycopg would send it as an integer of 32 bits.
    now_ms = Value(now, output_field=BigIntegerField())
    Device.objects.filter(pk__in=ids).update(
        signal_seq=F("signal_seq") + 1, signal_ms=Greatest(F("signal_ms") + 1, now_ms)
    )
    Signal.objects.bulk_create(signals)
    for each in signals:
        # The id spreads the work over the signals that many devices get at once.
        if (each.seq + each.device_id) % TRIMMED_EVERY == 0:
            trim(each)
    transaction.on_commit(partial(waking.wake, ids), robust=True)


def trim(newest: Signal) -> None:
    """Delete the signals of the device that are more than KEPT places behind the newest."""
    Signal.objects.filter(device=newest.device_id, seq__lte=newest.seq - KEPT).delete()


# --- Reading ---


@dataclass(frozen=True)
class Line:
    """A signal as a device reads it."""

    cursor: Cursor
    ts_ms: int
    type: str
    ref: Mapping[str, Any]

    @classmethod
    def of(cls, row: Signal) -> Self:
        return cls(Cursor(row.ts_ms, row.seq), row.ts_ms, row.type, row.ref)

    @property
    def shown(self) -> dict[str, Any]:
        return {"type": self.type, "ts_ms": self.ts_ms, "ref": self.ref}


@dataclass(frozen=True)
class Trimmed:
    """The cursor of a device is not in its log, which goes from `earliest` to `head`."""

    head: Cursor
    earliest: Cursor | None

    @property
    def ref(self) -> dict[str, Any]:
        retained = {"earliest_retained_id": str(self.earliest)} if self.earliest else {}
        return {"action": "full_resync", "reason": "cursor_trimmed", **retained}

    @property
    def line(self) -> Line:
        """The signal that asks the device to fetch everything. It goes on from `head`."""
        return Line(self.head, moment(), RESYNC, self.ref)

    @property
    def refusal(self) -> errors.CursorTrimmed:
        return errors.CursorTrimmed(
            _(
                "The cursor is not in the log of this device. Fetch everything again, and "
                "poll without a cursor."
            ),
            reset_cursor=True,
            signal_type=RESYNC,
            **self.ref,
        )


@dataclass(frozen=True)
class News:
    """The answer to one waiting connection. `family` is that of the device's open session."""

    family: str
    lines: Sequence[Line] = ()
    trimmed: Trimmed | None = None


def read(cursor: Cursor, device: Device, limit: int) -> list[Line]:
    """Return the signals after the cursor, oldest first, at most `limit`.

    The log begins KEPT places before its newest signal. Raise CursorTrimmed if the cursor is not
    in it.
    """
    head = Cursor(device.signal_ms, device.signal_seq)
    low = lowest(cursor, head)
    rows = Signal.objects.filter(device=device, seq__gte=low).order_by("seq")[: limit + 1]
    found = after(cursor, [Line.of(row) for row in rows])
    if found is None:
        raise trimmed(device.pk, head).refusal
    return found[:limit]


def read_all(asked: Collection[tuple[int, Cursor]]) -> dict[tuple[int, Cursor], News]:
    """Return what is new for each device and cursor, at most MOST signals.

    A device without an open session is left out. This takes one statement for each thousand devices
    when there is nothing new, and else two.
    """
    news: dict[tuple[int, Cursor], News] = {}
    in_order = sorted(asked)
    for start in range(0, len(in_order), CHUNK):
        chunk = in_order[start : start + CHUNK]
        heads = open_heads({device_id for device_id, _ in chunk})
        news |= {key: News(heads[key[0]][0]) for key in chunk if key[0] in heads}
        stale = {key: heads[key[0]][1] for key in chunk if key[0] in heads}
        stale = {key: head for key, head in stale.items() if key[1] != head}
        for key, lines in new_lines(stale).items():
            device_id, cursor = key
            found = after(cursor, lines)
            is_trimmed = trimmed(device_id, stale[key]) if found is None else None
            news[key] = News(news[key].family, (found or [])[:MOST], is_trimmed)
    return news


def open_heads(devices: Collection[int]) -> dict[int, tuple[str, Cursor]]:
    """Return the family of the open session, and the newest cursor, of each usable device."""
    sessions = DeviceSession.objects.live().filter(
        device__in=devices, device__status=Device.Status.ACTIVE, device__owner__is_active=True
    )
    rows = sessions.values_list("device", "family", "device__signal_ms", "device__signal_seq")
    return {pk: (family, Cursor(ms, seq)) for pk, family, ms, seq in rows}


def new_lines(
    stale: Mapping[tuple[int, Cursor], Cursor],
) -> dict[tuple[int, Cursor], list[Line]]:
    """Return the lines from each cursor on, in one statement. `stale` has the head of each."""
    if not stale:
        return {}
    lows = {key: lowest(key[1], head) for key, head in stale.items()}
    values = ", ".join(["(%s, %s, %s)"] * len(lows))
    rows = Signal.objects.raw(
        "SELECT signal.*, asked.column2 AS low FROM devices_signal AS signal"  # noqa: S608
        f" JOIN (VALUES {values}) AS asked ON signal.device_id = asked.column1"
        " AND signal.seq >= asked.column2 AND signal.seq <= asked.column3 ORDER BY signal.seq",
        [number for key, low in lows.items() for number in (key[0], low, low + MOST)],
    )
    by_low: dict[tuple[int, int], list[Line]] = defaultdict(list)
    for row in rows:
        low: int = vars(row)["low"]
        by_low[row.device_id, low].append(Line.of(row))
    return {key: by_low[key[0], low] for key, low in lows.items()}


def lowest(cursor: Cursor, head: Cursor) -> int:
    """Return the number from which on to read. The cursor itself is read too, to find it there."""
    return max(1, head.seq - KEPT + 1) if cursor == START else cursor.seq


def after(cursor: Cursor, lines: list[Line]) -> list[Line] | None:
    """Return the lines after the cursor, or None if the cursor is not the first of them."""
    if cursor == START:
        return lines
    return lines[1:] if lines and lines[0].cursor == cursor else None


def trimmed(device_id: int, head: Cursor) -> Trimmed:
    kept = Signal.objects.filter(device=device_id, seq__gt=head.seq - KEPT)
    earliest = kept.order_by("seq").first()
    return Trimmed(head, Line.of(earliest).cursor if earliest else None)
