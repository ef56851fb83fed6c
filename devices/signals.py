"""The log of signals that each device reads: what it should fetch again, and why.

The table is the truth. A device reads what follows its cursor, the id of the last signal that it
has. `devices.waking` tells the web processes that somebody should look.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from django.db import transaction
from django.db.models import BigIntegerField, F, Value
from django.db.models.functions import Greatest

from certctrl import clock, errors
from certctrl.jsonbody import printable
from devices import waking
from devices.models import Device, Signal

KEPT = 1000  # signals of one device
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
                f"The cursor {printable(text)} is not of the form <ms>-<seq>. Send the cursor "
                "of the last response, or 0-0 for the start of the log.",
                field="cursor",
            )
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.ts_ms}-{self.seq}"


START = Cursor()


# --- Writing ---


@transaction.atomic(savepoint=False)
def emit(devices: Iterable[int], type: str, ref: Mapping[str, object]) -> None:
    """Write a signal into the log of each device, and wake the waiting ones after the commit.

    Call this in the transaction that makes the signal true, after its other statements. The
    devices are locked until the commit, so that no signal appears before an older one.
    """
    now = int(clock.now().timestamp() * 1000)
    rows = Device.objects.filter(pk__in=set(devices)).order_by("pk")
    found = rows.select_for_update(no_key=True).values_list("pk", "signal_seq", "signal_ms")
    signals = [
        Signal(device_id=pk, seq=seq + 1, ts_ms=max(ms + 1, now), type=type, ref=dict(ref))
        for pk, seq, ms in found
    ]
    ids = [each.device_id for each in signals]
    if not ids:
        return
    # Without its type, psycopg would send the moment as an integer of 32 bits.
    moment = Value(now, output_field=BigIntegerField())
    Device.objects.filter(pk__in=ids).update(
        signal_seq=F("signal_seq") + 1, signal_ms=Greatest(F("signal_ms") + 1, moment)
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
    type: str
    ref: Mapping[str, Any]

    @classmethod
    def of(cls, row: Signal) -> Self:
        return cls(Cursor(row.ts_ms, row.seq), row.type, row.ref)

    @property
    def shown(self) -> dict[str, Any]:
        return {"type": self.type, "ts_ms": self.cursor.ts_ms, "ref": self.ref}


def read(cursor: Cursor, device: Device, limit: int) -> list[Line]:
    """Return the signals after the cursor, oldest first, at most `limit`.

    The log begins KEPT places before its newest signal. Raise CursorTrimmed if the cursor is not
    in it.
    """
    rows = Signal.objects.filter(device=device, seq__gt=device.signal_seq - KEPT)
    found = rows.filter(seq__gte=cursor.seq).order_by("seq")[: limit + 1]
    lines = [Line.of(row) for row in found]
    if cursor == START:
        return lines[:limit]
    if not lines or lines[0].cursor != cursor:
        raise trimmed(rows.order_by("seq").first())
    return lines[1:]


def trimmed(earliest: Signal | None) -> errors.CursorTrimmed:
    retained = {"earliest_retained_id": str(Line.of(earliest).cursor)} if earliest else {}
    return errors.CursorTrimmed(
        "The cursor is not in the log of this device. Fetch everything again, and poll without "
        "a cursor.",
        action="full_resync",
        reset_cursor=True,
        signal_type="state.resync_required",
        reason="cursor_trimmed",
        **retained,
    )
