"""Install windows: the hours of a day in which devices may get a new version."""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from certctrl.sentences import sentence as _

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
A_DAY = timedelta(days=1)
A_WEEK = 7


def complaint(window: Mapping[str, Any]) -> str:
    """Return what is wrong with a window, or ""."""
    for name in ("start", "end"):
        if not TIME.fullmatch(str(window.get(name))):
            return _("%(name)s is no time. Give hours and minutes, such as 22:00.", name=name)
    if window["start"] == window["end"]:
        return _("start and end are the same. Leave install_window out for no window.")
    zone = window.get("timezone")
    try:
        ZoneInfo(zone if isinstance(zone, str) else "")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return _("timezone is not known. Give a name such as Europe/Berlin, or UTC.")
    days = window.get("days")
    is_list = isinstance(days, list) and days and all(day in DAYS for day in days)
    if days is not None and not is_list:
        return _(
            "days is no list of days. Give some of %(days)s, or leave it out.", days=", ".join(DAYS)
        )
    if unknown := set(window) - {"start", "end", "timezone", "days"}:
        return _(
            "There is no member %(unknown)s. Give start, end, timezone and days.",
            unknown=sorted(unknown)[0][:100],
        )
    return ""


def opens_at(window: Mapping[str, Any] | None, now: datetime) -> datetime:
    """Return when the window is open next: `now` if it is open, or without a window.

    An end that is not after the start is on the next day. `days` are those on which it opens.
    """
    if not window:
        return now
    zone = ZoneInfo(window["timezone"])
    today = now.astimezone(zone).date()
    for number in range(-1, A_WEEK + 2):
        day = today + number * A_DAY
        if DAYS[day.weekday()] not in (window.get("days") or DAYS):
            continue
        opens = _moment(day, window["start"], zone)
        next_day = window["end"] <= window["start"]
        closes = _moment(day + A_DAY * next_day, window["end"], zone)
        if now < closes:
            return max(now, opens)
    return now  # no day of a whole week has such hours


def _moment(day: date, clock_time: str, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time.fromisoformat(clock_time), zone).astimezone(UTC)
