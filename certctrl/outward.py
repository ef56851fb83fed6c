"""Requests of people that wait for somebody else: a DNS provider, name servers, a CA.

Such a call takes as long as the other side likes, up to `clock.time_left()`. Meanwhile the request holds no database
connection, and few are under way at once, so that everybody else's requests find a connection and a thread.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.db import connections

from certctrl.errors import RateLimited, Unavailable

AT_ONCE = 8  # in a process
OF_ONE_OWNER = 2
PAUSE = 5  # seconds until it is worth asking again

_under_way: Counter[int] = Counter()  # by owner
_lock = threading.Lock()
_is_asking: ContextVar[bool] = ContextVar("_is_asking", default=False)


@contextmanager
def asking(owner_id: int) -> Iterator[None]:
    """The part of a request that goes out. Raises RateLimited where the owner has too many under way, and Unavailable
    where everybody together has; both at once, and before anything is asked."""
    _take(owner_id)
    token = _is_asking.set(True)
    try:
        let_go()
        yield
    finally:
        _is_asking.reset(token)
        with _lock:
            _under_way[owner_id] -= 1
            if not _under_way[owner_id]:
                del _under_way[owner_id]


def _take(owner_id: int) -> None:
    with _lock:
        if _under_way[owner_id] >= OF_ONE_OWNER:
            what = f"You have {OF_ONE_OWNER} checks under way, as many as there may be: wait until one is over."
            raise RateLimited(what, retry_after=PAUSE)
        if _under_way.total() >= AT_ONCE:
            what = "This server has as many checks under way as it makes at once: send it again in a few seconds."
            raise Unavailable(what, retry_after=PAUSE)
        _under_way[owner_id] += 1


def let_go() -> None:
    """Give the database connection back before a call goes out, where a person's request is `asking`; the next query
    takes one again. A worker keeps its own: its pool has one for each of its threads."""
    if _is_asking.get():
        give_connection_back()


def give_connection_back() -> None:
    """Before whatever takes long; the next query takes a connection again."""
    for connection in connections.all(initialized_only=True):
        blocks: list[Any] = connection.atomic_blocks
        assert all(block._from_testcase for block in blocks), (
            "a transaction keeps its connection: end it first"
        )
        if not connection.in_atomic_block:
            connection.close()
