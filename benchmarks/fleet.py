"""Devices that wait at one web process, by long polls and by WebSockets.

    python -m benchmarks.fleet [--rows polls,sockets] [--quick]

The devices are written directly into the tables. From then on everything is real: PostgreSQL,
Redis, one web process, and a connection for each device.
"""

import asyncio
import pathlib
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from benchmarks import site as sites
from benchmarks.measuring import Meter, rss_of, tell
from benchmarks.sizes import Sizes, asked
from tests.e2e.processes import Site, until

ROWS = ("polls", "sockets")
AT_ONCE = 50  # devices that connect at the same time
LIMIT = 60.0  # seconds until the last device must have heard

Waits = Callable[["Fleet", str, int, asyncio.Future[None]], Awaitable[None]]


class Fleet:
    """The devices, on an event loop of their own thread. `heard` has when each heard last."""

    def __init__(self, site: Site, count: int) -> None:
        self.site = site
        self.tokens = write_devices(count)
        self.heard: dict[int, float] = {}
        self.connected: set[int] = set()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def connect(self, waits: Waits) -> None:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(device: int, token: str) -> None:
            async with gate:
                ready: asyncio.Future[None] = self.loop.create_future()
                task = self.loop.create_task(waits(self, token, device, ready))
                self.tasks.append(task)
                await asyncio.wait((ready, task), return_when=asyncio.FIRST_COMPLETED)
                if task.done():
                    task.result()

        async def everyone() -> None:
            await asyncio.gather(*(one(*each) for each in self.tokens.items()))

        self.tasks: list[asyncio.Task[None]] = []
        asyncio.run_coroutine_threadsafe(everyone(), self.loop).result(LIMIT * 5)

    def disconnect(self) -> None:
        for task in self.tasks:
            self.loop.call_soon_threadsafe(task.cancel)


def write_devices(count: int) -> dict[int, str]:
    """Write the devices of one owner. Return the access token of each by its id."""
    from accounts.models import User
    from certctrl import clock
    from devices.models import Device, DeviceSession
    from devices.tokens import access_token
    from keystore.models import RecipientKey

    owner = User.objects.get()
    now = clock.now()
    first = Device.objects.count()
    numbers = range(first, first + count)
    keys = RecipientKey.objects.bulk_create(
        RecipientKey(owner=owner, public_key=number.to_bytes(32), fingerprint=number.to_bytes(32))
        for number in numbers
    )
    devices = Device.objects.bulk_create(
        Device(
            owner=owner,
            public_id=f"{number:036d}",
            key=key,
            enrolled_at=now,
            last_seen_at=now,
        )
        for number, key in zip(numbers, keys, strict=True)
    )
    sessions = DeviceSession.objects.bulk_create(
        DeviceSession(
            device=device,
            family=f"{device.pk:032x}",
            seal=b"",
            digest="",
            rotated_at=now,
            expires_at=now + timedelta(days=1),
        )
        for device in devices
    )
    return {
        device.pk: access_token(device, session)
        for device, session in zip(devices, sessions, strict=True)
    }


async def polls(fleet: Fleet, token: str, device: int, ready: Any) -> None:
    """Poll again and again, each time for 30 seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", fleet.site.port)
    cursor = "0-0"
    path = "/apiv1/devices/self/updates?limit=100&wait="
    wait = 0
    while True:
        head = f"GET {path}{wait} HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: {cursor}\r\n"
        writer.write(f"{head}Authorization: Bearer {token}\r\n\r\n".encode())
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        headers = dict(line.split(": ", 1) for line in answer.split("\r\n")[1:] if line)
        await reader.readexactly(int(headers.get("content-length", 0)))
        assert answer.startswith(("http/1.1 200", "http/1.1 204")), answer
        if answer.startswith("http/1.1 200"):
            fleet.heard[device] = time.perf_counter()
        cursor = headers["etag"]
        wait = 30
        if not ready.done():
            ready.set_result(None)


async def sockets(fleet: Fleet, token: str, device: int, ready: Any) -> None:
    """Hold a WebSocket, and send a ping every 20 seconds."""
    import json

    from websockets.asyncio.client import connect

    uri = f"ws://127.0.0.1:{fleet.site.port}/api/websocket/{device}"
    headers = {"Authorization": f"Bearer {token}"}
    async with connect(
        uri, additional_headers=headers, ping_interval=None, compression=None, proxy=None
    ) as socket:
        hello = json.loads(await socket.recv())
        payload = {"connection_id": hello["connection_id"]}
        ack = {"type": "event", "name": "lifecycle.hello_ack", "payload": payload}
        await socket.send(json.dumps(ack))
        ready.set_result(None)
        while True:
            try:
                async with asyncio.timeout(20):
                    message = json.loads(await socket.recv())
            except TimeoutError:
                await socket.send('{"type": "ping", "ts": 1}')
                continue
            if message.get("name") == "updates.signal":
                fleet.heard[device] = time.perf_counter()
                name = {"type": "event", "name": "updates.ack", "id": message["id"]}
                await socket.send(json.dumps(name | {"payload": {}}))


def emitted(devices: list[int]) -> float:
    """Write a signal for all devices. Return the moment of the commit."""
    from django.db import transaction

    from devices import signals

    moments = []
    with transaction.atomic():
        transaction.on_commit(lambda: moments.append(time.perf_counter()))
        signals.emit(devices, "cert.updated", {"cert_id": 1})
    return moments[0]


def heard_by_all(fleet: Fleet) -> list[float]:
    """Emit to all. Return the seconds until each device heard it, in order."""
    fleet.heard.clear()
    began = emitted(list(fleet.tokens))
    until(lambda: len(fleet.heard) == len(fleet.tokens), LIMIT, "the last device", every=0.01)
    return sorted(moment - began for moment in fleet.heard.values())


def threads_of(pid: int) -> int:
    return len(list(pathlib.Path(f"/proc/{pid}/task").iterdir()))


def measure(site: Site, row: str, waits: Waits, sizes: Sizes) -> None:
    pid = sites.pids(site)["web"]
    pause = threading.Event()
    pause.wait(sizes.settled)
    before = rss_of(pid)
    fleet = Fleet(site, sizes.devices)
    began = time.perf_counter()
    fleet.connect(waits)
    connected = time.perf_counter() - began
    pause.wait(sizes.settled)
    growth = rss_of(pid) - before
    meter = Meter({"web": pid, "postgres": sites.pids(site)["postgres"]})
    pause.wait(sizes.watched)
    cpu, foreign = meter.read()
    percent = {name: 100 * used / meter.seconds for name, used in cpu.items()}
    rounds = []
    for _ in range(sizes.rounds):
        rounds.append(heard_by_all(fleet))
        pause.wait(2.0)
    one = []
    for device in [*fleet.tokens][:: max(1, sizes.devices // 20)]:
        fleet.heard.clear()
        at = emitted([device])
        until(lambda: fleet.heard, LIMIT, "the device", every=0.001)
        one.append(fleet.heard[device] - at)
        pause.wait(0.1)
    tell(
        row=row,
        who="certctrl",
        n=sizes.devices,
        connected_s=connected,
        kb_each=growth * 1024 / sizes.devices,
        rss_mb=rss_of(pid),
        threads=threads_of(pid),
        idle_percent=percent["web"],
        postgres_percent=percent["postgres"],
        last_s=statistics.median(each[-1] for each in rounds),
        half_s=statistics.median(each[len(each) // 2] for each in rounds),
        one_ms=1000 * statistics.median(one),
        foreign_cores=foreign,
    )
    fleet.disconnect()
    for name in ("device.no_messages", "device.look_failed"):
        assert name not in site.log("web").read_text(), site.tell()


def main() -> int:
    rows, sizes = asked(ROWS)
    waits: dict[str, Waits] = {"polls": polls, "sockets": sockets}
    with sites.web_only(MAX_DEVICES=str(len(rows) * sizes.devices + 100)) as site:
        sites.use_database(site)
        for row in rows:
            if row != rows[0]:  # each row has a new web process
                site.kill("web")
                site.start_web()
                site.until_web_answers()
            measure(site, row, waits[row], sizes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
