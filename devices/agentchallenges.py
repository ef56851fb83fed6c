"""Challenges of a CA that the agent of a device answers. Only this module writes their rows.

The row is the queue. `start` and `stop` note what the device should do. The web process that has
the WebSocket of the device sends it (`devices.hub`), and notes the ack. A device hears of a
challenge only while it is connected, so these signals are not in its log.
"""

import secrets
from collections.abc import Collection, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import Max, Q, QuerySet

from certctrl import clock, retention
from devices import waking
from devices.models import AgentChallenge, Device
from devices.signals import Cursor, Line, moment

TTL = timedelta(minutes=5)  # for which the device answers, unless it is stopped sooner
KEPT = timedelta(days=1)


class Sending(NamedTuple):
    """A signal for a connected device, and whether it starts the challenge or stops it."""

    pk: int
    device_id: int
    is_start: bool
    line: Line


# --- What an attempt wants ---


def note(device: Device, kind: str, ref: Mapping[str, Any]) -> AgentChallenge:
    """Write down a challenge that the device does not answer yet."""
    return AgentChallenge.objects.create(
        device=device, challenge_id=secrets.token_hex(16), kind=kind, ref=dict(ref)
    )


def start(ids: Collection[int]) -> None:
    """Have the devices answer these challenges, unless they were started or stopped before."""
    wanted = AgentChallenge.objects.filter(pk__in=ids, start_ms=None, stop_ms=None)
    send(wanted, "start_ms")


def stop(challenges: QuerySet[AgentChallenge]) -> None:
    """Have the devices stop answering. This is best effort, because a start ends by itself."""
    send(challenges.filter(stop_ms=None), "stop_ms")


def forget(ids: Collection[int]) -> None:
    """Let these challenges be started again."""
    AgentChallenge.objects.filter(pk__in=ids).update(start_ms=None, acked_at=None)


@transaction.atomic(savepoint=False)
def send(challenges: QuerySet[AgentChallenge], column: str) -> None:
    """Set the moment of the signals, and wake the devices after the commit.

    A device takes two signals of one type and one moment for the same signal. So the moments of a
    device differ. The devices are locked meanwhile.
    """
    rows = list(challenges.order_by("pk"))
    if not rows:
        return
    ids = sorted({row.device_id for row in rows})
    list(Device.objects.filter(pk__in=ids).order_by("pk").select_for_update(no_key=True))
    of_devices = AgentChallenge.objects.filter(device__in=ids)
    used = of_devices.aggregate(start=Max("start_ms"), stop=Max("stop_ms"))
    ms = max(moment(), *((each or 0) + 1 for each in used.values()))
    for number, row in enumerate(rows):
        AgentChallenge.objects.filter(pk=row.pk, **{column: None}).update(**{column: ms + number})
    transaction.on_commit(partial(waking.wake, ids), robust=True)


# --- What web processes send ---


def due(devices: Collection[int]) -> list[Sending]:
    """Return the signals that these devices have not acknowledged, oldest first."""
    since = moment() - int(TTL.total_seconds() * 1000)
    is_start = Q(start_ms__gt=since, acked_at=None, stop_ms=None)
    rows = AgentChallenge.objects.filter(is_start | Q(stop_ms__gt=since), device__in=devices)
    return [sending(row) for row in rows.order_by("pk")]


def sending(row: AgentChallenge) -> Sending:
    is_start = row.stop_ms is None
    ms = row.start_ms if row.stop_ms is None else row.stop_ms
    named = {"challenge_id": row.challenge_id}
    ref = named | row.ref if is_start else named
    kind = f"acme.{row.kind}.{'start' if is_start else 'stop'}"
    return Sending(row.pk, row.device_id, is_start, Line(Cursor(ms or 0, 0), ms or 0, kind, ref))


def ack(sent: Sending) -> None:
    """Note that the device did what was sent. A challenge that was stopped is deleted."""
    row = AgentChallenge.objects.filter(pk=sent.pk)
    if sent.is_start:
        row.filter(start_ms=sent.line.ts_ms, acked_at=None).update(acked_at=clock.now())
    else:
        row.delete()


def prune() -> None:
    """Delete the challenges of devices that were away."""
    retention.delete(AgentChallenge.objects.filter(created_at__lt=clock.now() - KEPT))
