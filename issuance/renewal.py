"""When a certificate is renewed, and when an attempt that failed is made again. Pure functions: times in, times out."""

import random
from datetime import datetime, timedelta

SHORT_LIFE = timedelta(days=10)
FIRST_RETRY = timedelta(hours=1)
LAST_RETRY = timedelta(hours=24)
LEAST_RETRY = timedelta(minutes=15)
LIMIT_SPREAD = timedelta(minutes=5)  # so that those who were told the same moment do not come at once
FIRST_ISSUANCE = timedelta(days=7)  # for so long a certificate that was never issued is tried again


def renew_at(not_before: datetime, not_after: datetime, days_before: int | None, jitter: float) -> datetime:
    """The moment of renewal: a third of the life left, half when the life is under ten days, less up to an hour.

    `days_before`, when a person set it, makes it earlier or later, never before half of the life.
    `jitter` is 0 to 1.
    """
    life = not_after - not_before
    half = not_before + life / 2
    if days_before:
        chosen = max(half, not_after - timedelta(days=days_before))
    else:
        chosen = half if life < SHORT_LIFE else not_after - life / 3
    return max(half, chosen - timedelta(hours=1) * jitter)


def retry_at(
    now: datetime,
    failures: int,
    expires_at: datetime | None,
    *,
    first_tried_at: datetime,
    permanent: bool = False,
    asked_for: datetime | None = None,
    limited: bool = False,
    jitter: float = 0.5,
) -> datetime | None:
    """When to try again after the nth failure in a row; None when nothing is scheduled and a person is asked.

    `asked_for` is the CA's moment (Retry-After); with `limited` it is the one at which a limit of the CA has room
    again, and decides alone, however far off it is. `first_tried_at` is when the failures began. `jitter` is 0 to 1:
    10 % less to 10 % more.
    """
    if limited and asked_for:
        return now + _until_the_limit_has_room(asked_for - now, expires_at - now if expires_at else None, jitter)
    if expires_at is None and (permanent or now - first_tried_at > FIRST_ISSUANCE):
        return None
    left = max(timedelta(0), expires_at - now) if expires_at else timedelta(0)
    pause = LAST_RETRY if permanent else min(FIRST_RETRY * 2 ** min(failures - 1, 10), LAST_RETRY)
    if left:
        pause = min(pause, left / 4)
    pause = max(LEAST_RETRY, pause * (0.9 + 0.2 * jitter))
    if asked_for:
        most = max(FIRST_RETRY, left / 4) if expires_at else LAST_RETRY
        pause = max(pause, min(asked_for - now, most))
    return now + pause


def _until_the_limit_has_room(pause: timedelta, left: timedelta | None, jitter: float) -> timedelta:
    """Never sooner than asked, but for a certificate that would run out of time."""
    pause = max(LEAST_RETRY, pause + LIMIT_SPREAD * jitter)
    return pause if left is None else min(pause, max(FIRST_RETRY, left / 4))


def draw() -> float:
    """A jitter, 0 to 1."""
    return random.random()  # noqa: S311  (spreads load, protects nothing)
