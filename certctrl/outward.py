"""People's requests that wait for another server: a DNS provider, a name server or a CA.

Such a call may take up to `clock.time_left()`. Meanwhile the request holds no database connection.
Few such requests run at once. So other requests find a free connection and a free thread.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.conf import settings
from django.db import connections

from certctrl.errors import RateLimited, Unavailable
from certctrl.sentences import sentence as _

AT_ONCE = 8  # per process
OF_ONE_OWNER = 2
PAUSE = 5  # seconds until a retry makes sense

_under_way: Counter[int] = Counter()  # by owner id
_lock = threading.Lock()
_in_request: ContextVar[bool] = ContextVar("_in_request", default=False)


@contextmanager
def for_owner(owner_id: int) -> Iterator[None]:
    """The part of a request that makes outward calls. All limits are checked before the first call.

    Raise RateLimited when the owner has too many such requests. Raise Unavailable when the
    process has too many.
    """
    _take(owner_id)
    token = _in_request.set(True)
    try:
        let_go()
        yield
    finally:
        _in_request.reset(token)
        with _lock:
            _under_way[owner_id] -= 1
            if not _under_way[owner_id]:
                del _under_way[owner_id]


def _take(owner_id: int) -> None:
    with _lock:
        if _under_way[owner_id] >= OF_ONE_OWNER:
            what = _(
                "You have %(of_one_owner)s checks in progress, the most that is allowed. "
                "Wait until one has ended.",
                of_one_owner=OF_ONE_OWNER,
            )
            raise RateLimited(what, retry_after=PAUSE)
        if _under_way.total() >= AT_ONCE:
            what = _(
                "This server has too many checks in progress. Send the request again in "
                "a few seconds."
            )
            raise Unavailable(what, retry_after=PAUSE)
        _under_way[owner_id] += 1


def let_go() -> None:
    """Close the database connection before an outward call of a person's request.

    The next query opens it again. A worker keeps its connection, because its pool has one per
    thread. Raise Unavailable in a demo, which calls nobody.
    """
    if settings.DEMO:
        raise Unavailable(_("This is a demo. It calls no other server, so nothing was done."))
    if _in_request.get():
        give_connection_back()


def give_connection_back() -> None:
    """Close the database connection before slow work. The next query opens it again."""
    for connection in connections.all(initialized_only=True):
        blocks: list[Any] = connection.atomic_blocks
        assert all(block._from_testcase for block in blocks), (
            "a transaction is open on this connection; end it first"
        )
        if not connection.in_atomic_block:
            connection.close()
