"""Detects a full disk: the errors that mean it, and whose disk is full.

Nothing is lost then, but nothing is done either. A retry helps only after somebody has made room.
"""

import errno
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from django.core.cache import cache

from certctrl.errors import ApiError
from certctrl.sentences import sentence as _

log = structlog.get_logger()

PAUSE = 60  # seconds until a retry makes sense
# Bytes on the disk of the SQLite file. With less the disk counts as full, because the journal grows
# by more.
LEAST_FREE = 256 * 1024
# Cache key of the sentence, kept for PAUSE seconds after such an error.
KEPT = "disk_full"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
DATABASE = _("The disk of the database is full")
REDIS = _("Redis has reached its memory limit, or its disk is full")
SERVER = _("The disk of this server is full")


class DiskFull(ApiError):
    """Nothing can be written. `params["retry_after"]` is a guess, in seconds."""

    code, key, status = 20012, "GENERAL::DISK_FULL", 507

    def __init__(self, side: str) -> None:
        super().__init__(
            _(
                "%(side)s. The request was not carried out. The operator of this server must "
                "free space. Then send it again.",
                side=side,
            ),
            retry_after=PAUSE,
        )
        self.side = side


def refusal_of(exc: BaseException | None) -> DiskFull | None:
    """Return the refusal for an error that a full disk caused, or None for another error."""
    for each in _causes(exc):
        if side := _side(each):
            return DiskFull(side)
    return None


def note(exc: BaseException | None) -> DiskFull | None:
    """Return refusal_of(), and keep it in the cache for PAUSE seconds.

    /health then reports the full disk, no matter which process found it.
    """
    full = refusal_of(exc)
    if full:
        log.error("disk.full", what=full.side)
        try:
            cache.set(KEPT, full.side, PAUSE)
        except Exception as unkept:
            # Any error of the cache's client. Redis may be the full one.
            log.warning("disk.unkept", error=type(unkept).__name__)
    return full


def refuse_when_full() -> None:
    """Raise DiskFull, for /health, when a disk is full."""
    if side := full_side(_kept()):
        raise _unhealthy(side)


def full_side(kept: object) -> str:
    """Return whose disk is full now, or was in the last PAUSE seconds; empty for none.

    `kept` is the value of KEPT in the cache.
    """
    if _sqlite_is_full():
        return DATABASE
    return _(kept) if kept and isinstance(kept, str) else ""


def refuse_when_redis_is_full() -> None:
    """Raise DiskFull, for /health, when Redis cannot store a value.

    Call this when no sweep was recorded. Sweeps may run while Redis refuses their record.
    """
    try:
        cache.set("health", time.time(), PAUSE)
    except Exception as exc:  # any error of the cache's client
        if full := refusal_of(exc):
            raise _unhealthy(full.side) from None


def _unhealthy(side: str) -> DiskFull:
    full = DiskFull(side)
    full.status = 503  # the status that monitors of /health expect
    return full


def _kept() -> object:
    try:
        return cache.get(KEPT)
    except Exception:  # any error of the cache's client
        return None


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, then its cause, and so on."""
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        exc = exc.__cause__ or exc.__context__


def _side(exc: BaseException) -> str:
    if isinstance(exc, sqlite3.Error):
        name = getattr(exc, "sqlite_errorname", "") or ""
        # A journal that cannot be created or grow is "disk I/O error" or "unable to open database
        # file".
        is_io = name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN"))
        return DATABASE if name == "SQLITE_FULL" or (is_io and _sqlite_is_full()) else ""
    if getattr(exc, "sqlstate", None) == "53100":  # PostgreSQL: disk_full
        return DATABASE
    if isinstance(exc, OSError) and exc.errno in NO_SPACE:
        return SERVER
    is_redis = type(exc).__module__.startswith("redis.")
    return REDIS if is_redis and _is_redis_full(exc) else ""


def _is_redis_full(exc: BaseException) -> bool:
    """Return whether Redis is full.

    OOM means that it is over `maxmemory`. MISCONF means that it cannot write its file. It then
    refuses writes until it can.
    """
    return type(exc).__name__ == "OutOfMemoryError" or str(exc).startswith(("OOM ", "MISCONF "))


def _sqlite_is_full() -> bool:
    database: dict[str, Any] = settings.DATABASES["default"]
    path = Path(str(database["NAME"]))
    if database["ENGINE"] != "django.db.backends.sqlite3" or not path.is_file():
        return False
    try:
        return shutil.disk_usage(path.parent).free < LEAST_FREE
    except OSError:
        return False
