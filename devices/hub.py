"""The devices that wait at this web process, for a signal or for the end of their session.

A waiting device costs a connection, and no thread and no statement of its own. One task reads the
logs of all of them: of some when Redis says so, and of all every few seconds.
"""

import asyncio
import contextlib
import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
import structlog
from django.conf import settings
from django.db import connections

from certctrl import errors
from certctrl.sentences import sentence as _
from devices import agentchallenges, signals, waking
from devices.agentchallenges import Sending
from devices.authentication import note_all_seen
from devices.signals import Cursor, Line, News, Trimmed

LOOK_EVERY = 5.0  # seconds between two looks for all devices, which need no message
SEEN_EVERY = 60.0  # seconds between two notes that the waiting devices were seen
PAUSE = 2.0  # seconds after a failure of Redis or the database
MOST_OF_ONE = 4  # connections of one device; one more ends the oldest
RETRY_AFTER = 30  # seconds

log = structlog.get_logger()
T = TypeVar("T")


class Waiter(ABC):
    """One connection of a device. It waits while `cursor` is set.

    `missed` says that somebody wanted it to look meanwhile. `is_live` says whether it takes the
    signals that are not in the log.
    """

    is_live = False

    def __init__(self, device_id: int, family: str, cursor: Cursor | None) -> None:
        self.device_id = device_id
        self.family = family
        self.cursor = cursor
        self.missed = False

    @abstractmethod
    def hear(self, lines: Sequence[Line]) -> None:
        """Take the signals after the cursor. This must not block."""

    @abstractmethod
    def resync(self, trimmed: Trimmed) -> None:
        """Learn that the cursor is not in the log."""

    def hear_live(self, sendings: Sequence[Sending]) -> None:  # noqa: B027
        """Take signals that only a connected device gets. A poll takes none."""

    @abstractmethod
    def end(self, refusal: errors.ApiError | None) -> None:
        """End the connection: the session has ended, or a newer connection takes its place."""


class Hub:
    """The waiters of one event loop."""

    def __init__(self) -> None:
        self.waiters: dict[int, list[Waiter]] = defaultdict(list)
        self.count = 0
        self.due: set[int] = set()
        self.is_due = asyncio.Event()
        self.thread = ThreadPoolExecutor(1, "hub")
        self.tasks: list[asyncio.Task[None]] = []

    def join(self, waiter: Waiter) -> None:
        """Add the waiter. Raise Unavailable if this process has as many as it may have."""
        if self.count >= settings.MAX_DEVICES:
            raise errors.Unavailable(
                _("Too many devices wait here. Poll without `wait`, or connect again later."),
                retry_after=RETRY_AFTER,
            )
        if not self.tasks:
            self.tasks = [asyncio.create_task(self.run()), asyncio.create_task(self.listen())]
        own = self.waiters[waiter.device_id]
        own.append(waiter)
        self.count += 1
        if len(own) > MOST_OF_ONE:
            own[0].end(None)
            self.leave(own[0])

    def leave(self, waiter: Waiter) -> None:
        own = self.waiters.get(waiter.device_id, [])
        if waiter in own:
            own.remove(waiter)
            self.count -= 1
        waiter.cursor = None
        if not own:
            self.waiters.pop(waiter.device_id, None)

    def look(self, devices: Iterable[int]) -> None:
        """Read the logs of these devices soon."""
        here = self.waiters.keys() & set(devices)
        if here:
            self.due |= here
            self.is_due.set()

    async def run(self) -> None:
        """Read the logs of the devices that are due, and of all every LOOK_EVERY seconds."""
        loop = asyncio.get_running_loop()
        all_at = loop.time() + LOOK_EVERY
        seen_at = loop.time() + SEEN_EVERY
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(all_at):
                    await self.is_due.wait()
            if loop.time() >= all_at:
                all_at = loop.time() + LOOK_EVERY
                self.due |= self.waiters.keys()
            self.is_due.clear()
            due, self.due = self.due, set()
            try:
                await self.serve(due)
                if loop.time() >= seen_at:
                    seen_at = loop.time() + SEEN_EVERY
                    everyone = [*self.waiters]
                    await self.in_own_thread(partial(note_all_seen, everyone))
            except Exception:  # any error of the database; the next look is for all
                log.exception("device.look_failed", devices=len(due))
                await asyncio.sleep(PAUSE)

    async def serve(self, due: Iterable[int]) -> None:
        waiters = [each for device_id in due for each in self.waiters.get(device_id, ())]
        asked = {each: each.cursor for each in waiters if each.cursor is not None}
        for each in waiters:
            each.missed = each not in asked
        if not asked:
            return
        keys = {(each.device_id, cursor) for each, cursor in asked.items()}
        live_ids = {each.device_id for each in asked if each.is_live}
        found, live = await self.in_own_thread(partial(read, keys, live_ids))
        for waiter, cursor in asked.items():
            if waiter.cursor == cursor:  # it is still there
                tell(waiter, found.get((waiter.device_id, cursor)), live[waiter.device_id])

    async def in_own_thread(self, act: Callable[[], T]) -> T:
        """Return the result of `act`. The thread keeps its database connection until an error.

        A new connection for each poll takes more time than what it reads.
        """

        def run() -> T:
            try:
                return act()
            except BaseException:
                connections.close_all()
                raise

        return await asyncio.get_running_loop().run_in_executor(self.thread, run)

    async def listen(self) -> None:
        """Take the messages of `waking`. Go on without them while Redis is away."""
        while True:
            try:
                await self.take_messages()
            except (redis.RedisError, OSError) as exc:
                log.warning("device.no_messages", error=type(exc).__name__)
            await asyncio.sleep(PAUSE)

    async def take_messages(self) -> None:
        client = redis.asyncio.Redis.from_url(
            settings.REDIS.url,
            socket_connect_timeout=PAUSE,
            **settings.REDIS.options,
        )
        async with client, client.pubsub(ignore_subscribe_messages=True) as subscription:
            await subscription.subscribe(waking.CHANNEL)
            async for message in subscription.listen():
                with contextlib.suppress(ValueError, TypeError):
                    self.look(json.loads(message["data"]))


async def in_thread(act: Callable[[], T]) -> T:
    """Return the result of `act`, which uses the database, from a thread."""

    def run() -> T:
        try:
            return act()
        finally:
            connections.close_all()

    return await asyncio.get_running_loop().run_in_executor(None, run)


def read(
    asked: Collection[tuple[int, Cursor]], live_ids: Collection[int]
) -> tuple[dict[tuple[int, Cursor], News], dict[int, list[Sending]]]:
    """Return what is new in the logs, and the live signals of the devices in `live_ids`."""
    live: dict[int, list[Sending]] = defaultdict(list)
    for each in agentchallenges.due(live_ids) if live_ids else ():
        live[each.device_id].append(each)
    return signals.read_all(asked), live


def tell(waiter: Waiter, news: News | None, live: Sequence[Sending]) -> None:
    if news is None or news.family != waiter.family:
        waiter.end(errors.Unauthorized(_("The session of this device has ended. Enrol it again.")))
        return
    if live:
        waiter.hear_live(live)
    if news.trimmed:
        waiter.resync(news.trimmed)
    elif news.lines:
        waiter.hear(news.lines)


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()


def hub() -> Hub:
    """Return the hub of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _hubs:
        _hubs[loop] = Hub()
    return _hubs[loop]
