"""Compute when a certificate is renewed, and when a failed attempt is tried again.

The functions are pure. They take times, and return times.
"""

import random
from datetime import datetime, timedelta

from certctrl.turns import A_DAY

SHORT_LIFE = timedelta(days=10)
AN_HOUR = timedelta(hours=1)
FIRST_RETRY = AN_HOUR
LAST_RETRY = timedelta(hours=24)
LEAST_RETRY = timedelta(minutes=15)
LIMIT_SPREAD = timedelta(minutes=5)  # so that attempts with the same time are spread
FIRST_ISSUANCE = timedelta(days=7)  # how long a first issuance is tried again

Span = tuple[datetime, datetime]

# Pauses between two polls of a renewal window.
LEAST_POLL = timedelta(minutes=1)
USUAL_POLL = timedelta(hours=6)
LONGEST_POLL = timedelta(hours=12)
POLL_SPREAD = 0.1


def renew_at(
    not_before: datetime,
    not_after: datetime,
    days_before: int | None,
    jitter: float,
    ari_moment: datetime | None = None,
) -> datetime:
    """Return the time of renewal. It leaves at least a sixth of the life.

    - `ari_moment` was drawn in the window that the CA suggests (RFC 9773, section 4.2). `jitter`
      does not change it. It is in the past when the CA is going to revoke the certificate.
    - `days_before` is the wish of a person. It only makes the renewal earlier, but not earlier than
      half of the life.
    - Without both, the renewal is when a third of the life is left. When the life is under ten
      days, it is when half is left.
    - `jitter` (0 to 1) is the part of an hour by which a time without a window is earlier.
    """
    life = not_after - not_before
    half = not_before + life / 2
    ours = max(half, _by_the_life(not_after, life, days_before) - AN_HOUR * jitter)
    chosen = ours if ari_moment is None else ari_moment
    if days_before:
        chosen = min(chosen, ours)
    return min(chosen, not_after - life / 6)


def _by_the_life(not_after: datetime, life: timedelta, days_before: int | None) -> datetime:
    if days_before:
        return not_after - timedelta(days=days_before)
    return not_after - life / (2 if life < SHORT_LIFE else 3)


def gains_no_time(current: Span, new: Span, *, capped: bool) -> bool:
    """Return whether the new certificate ends no later than the current one.

    Each span is (not_before, not_after). A gain of less than a hundredth of the current life does
    not count. `capped` says that the new certificate ends because its CA ends. Otherwise the CA may
    have begun to issue for a shorter life. Then only an end that has not moved counts.
    """
    began, ends = current
    begins, new_ends = new
    nothing = (ends - began) / 100
    if capped:
        return new_ends - ends <= nothing
    return abs(new_ends - ends) <= nothing and begins - began > 10 * nothing


def after_no_gain(now: datetime, expires_at: datetime) -> datetime:
    """Return when a renewal that gained no time is tried again.

    This is after half of the time left, at least a day. So it is tried a few times, and not daily.
    """
    return now + max(A_DAY, (expires_at - now) / 2)


def poll_pause(asked_for: float | None, jitter: float) -> timedelta:
    """Return the time until the next poll of a renewal window (RFC 9773, section 4.3).

    `asked_for` is the Retry-After in seconds, kept between a minute and twelve hours. Without it
    the pause is six hours. `jitter` (0 to 1) adds up to a tenth, so that many polls do not come at
    the same time.
    """
    pause = USUAL_POLL if asked_for is None else timedelta(seconds=asked_for)
    longest = LONGEST_POLL / (1 + POLL_SPREAD)
    return min(max(pause, LEAST_POLL), longest) * (1 + POLL_SPREAD * jitter)


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
    """Return when to try again after `failures` failures in a row.

    Return None when nothing is scheduled and a person must act. `asked_for` is the time that the CA
    named (Retry-After). With `limited` a limit of the CA has room again at that time. Then
    `asked_for` alone decides, however far away it is. `first_tried_at` is when the failures began.
    `jitter` (0 to 1) changes the pause by -10 % to +10 %.
    """
    if limited and asked_for:
        return now + _until_the_limit_has_room(
            asked_for - now, expires_at - now if expires_at else None, jitter
        )
    if expires_at is None and (permanent or now - first_tried_at > FIRST_ISSUANCE):
        return None
    left = max(timedelta(0), expires_at - now) if expires_at else timedelta(0)
    pause = LAST_RETRY if permanent else min(FIRST_RETRY * 2 ** min(failures - 1, 10), LAST_RETRY)
    if left:
        pause = min(pause, left / 4)
    elif expires_at and not permanent:  # it has expired, so its users are down
        pause = min(pause, FIRST_RETRY)
    pause = max(LEAST_RETRY, pause * (0.9 + 0.2 * jitter))
    if asked_for:
        most = max(FIRST_RETRY, left / 4) if expires_at else LAST_RETRY
        pause = max(pause, min(asked_for - now, most))
    return now + pause


def _until_the_limit_has_room(pause: timedelta, left: timedelta | None, jitter: float) -> timedelta:
    """Return the pause, which is at least the one that was asked for.

    It is shorter for a certificate that would run out of time.
    """
    pause = max(LEAST_RETRY, pause + LIMIT_SPREAD * jitter)
    return pause if left is None else min(pause, max(FIRST_RETRY, left / 4))


def draw() -> float:
    """Return a jitter, 0 to 1."""
    return random.random()  # noqa: S311  (spreads load, protects nothing)
