"""Drawings to measure: SVG with places in percent, and no style."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from issuance.services import DayCount

DAYS = 90  # of the axis
WIDTH = 97.0  # percent for them; the rest is for what ends later
MOST_LATER = 98.6  # percent


def x(days: float) -> float:
    """Return the place of a day on the axis of 90 days, in percent."""
    return round(max(0.0, min(days / DAYS * WIDTH, MOST_LATER)), 2)


def axis() -> SafeString:
    """Return the axis of 90 days. The bars below it have the same width."""
    ticks = (
        (0, "start", "", _("now")),
        (30, "middle", "", _("%(count)d d") % {"count": 30}),
        (60, "middle", "mid", _("%(count)d d") % {"count": 60}),
        (90, "end", "", _("%(count)d days") % {"count": 90}),
    )
    marks = format_html_join(
        "",
        '<line class="tick" x1="{0}%" x2="{0}%" y1="12" y2="17"/>'
        '<text class="{2}" x="{0}%" y="9" text-anchor="{1}">{3}</text>',
        ((x(days), anchor, kind, word) for days, anchor, kind, word in ticks),
    )
    return format_html('<svg class="axis" aria-hidden="true">{}</svg>', marks)


GRID = format_html_join(
    "",
    '<line class="grid" x1="{0}%" x2="{0}%" y1="-11" y2="27"/>',
    ((x(days),) for days in (0, 30, 60, 90)),
)


def life(
    kind: str, now: datetime, renews: datetime | None, ends: datetime | None, label: str
) -> SafeString:
    """Return the bar of a certificate on the axis of 90 days.

    Thin: nothing to do. Notch: it renews. Thick: the reserve. Square: it ends. A bar with a `kind`
    is only thick, because its reserve is in use.
    """
    if ends is None:
        return format_html('<svg class="life" aria-hidden="true">{}</svg>', GRID)
    end = (ends - now) / timedelta(days=1)
    begin = (renews - now) / timedelta(days=1) if renews else end
    parts = [GRID]
    fill = {"again": "url(#hatch-wait)", "waits": "url(#hatch-wait)"}.get(kind, "currentColor")
    if kind in ("you", "again", "waits", "goes") and end > 0:
        bar = '<rect x="0" y="5.5" width="{}%" height="5" fill="{}" stroke="currentColor"/>'
        parts.append(format_html(bar, x(end), fill))
    elif end > 0:
        parts.append(
            format_html('<line class="plan" x1="0" x2="{}%" y1="8" y2="8"/>', x(min(begin, end)))
        )
        if begin < end and begin <= DAYS:
            keep = '<rect class="keep" x="{}%" y="5.5" width="{}%" height="5"/>'
            parts.append(format_html(keep, x(begin), round(x(end) - x(begin), 2)))
            notch = '<line class="notch" x1="{0}%" x2="{0}%" y1="1" y2="15"/>'
            parts.append(format_html(notch, x(begin)))
    if end <= DAYS:
        square = '<rect class="end" x="{}%" y="4" width="4" height="8"/>'
        parts.append(format_html(square, x(end)))
    drawn = format_html_join("", "{}", ((each,) for each in parts))
    shape = "again" if kind == "waits" else kind
    return format_html(
        '<svg class="life {}" role="img" aria-label="{}">{}</svg>', shape, label, drawn
    )


MOST_BAR = 110  # pixels
RULER = 132  # where the bars of renewals end
BELOW = 158  # where the bars of ends begin


def days(counts: Sequence[DayCount]) -> SafeString:
    """Return the renewals and ends of each day: renewals above the ruler, ends below."""
    most = max([1, *(each.renews for each in counts), *(each.ends for each in counts)])
    scale = MOST_BAR / most
    bars = []
    for number, each in enumerate(counts):
        left = round(number * 100 / DAYS + 0.14, 2)
        at = f"{each.day:%Y-%m-%d}"
        if each.renews:
            height = round(each.renews * scale, 1)
            words = _("%(day)s: %(count)d renew") % {"day": at, "count": each.renews}
            bars.append(("renews", left, RULER - height, height, words))
        if each.ends:
            words = _("%(day)s: %(count)d end") % {"day": at, "count": each.ends}
            bars.append(("ends", left, BELOW, round(each.ends * scale, 1), words))
    drawn = format_html_join(
        "",
        '<rect class="bar {}" x="{}%" y="{}" width="0.80%" height="{}"><title>{}</title></rect>',
        bars,
    )
    ticks = format_html_join(
        "",
        '<text x="{}%" y="149" text-anchor="{}">{}</text>',
        (
            (round(number * 100 / DAYS, 2), "start" if number < 80 else "end", f"{at.day:%Y-%m-%d}")
            for number, at in enumerate(counts)
            if number in (0, 30, 60, 89)
        ),
    )
    return format_html(
        '<svg class="when" role="img" aria-label="{label}" height="278">'
        '<rect class="ruler" x="0" y="132" width="100%" height="26"/>'
        '<text class="strong" x="0" dx="8" y="12">{above}</text>'
        '<text class="strong" x="0" dx="8" y="272">{below}</text>{bars}{ticks}</svg>',
        label=_("Renewals and ends of the next 90 days"),
        above=_("planned renewals, at most %(count)d a day") % {"count": most},
        below=_("ends, unless renewed before"),
        bars=drawn,
        ticks=ticks,
    )


@dataclass(frozen=True)
class Version:
    """A version as the lanes of one certificate draw it."""

    begins: datetime
    ends: datetime
    renews: datetime | None  # or when its successor began
    is_gone: bool
    window: tuple[datetime, datetime] | None = None


class Lanes:
    """The versions of one certificate, on one axis from the oldest begin to the newest end."""

    def __init__(self, versions: Sequence[Version], now: datetime) -> None:
        self.now = now
        self.start = min([each.begins for each in versions] or [now])
        self.end = max([each.ends for each in versions] or [now]) + timedelta(hours=1)

    def place(self, at: datetime) -> float:
        share = (at - self.start) / (self.end - self.start)
        return round(max(0.0, min(share, 1.0)) * MOST_LATER, 2)

    def axis(self) -> SafeString:
        marks = [(self.start, "start"), (self.now, "middle"), (self.end, "end")]
        if self.place(self.now) < 12 or self.place(self.now) > 86:
            del marks[1]
        drawn = format_html_join(
            "",
            '<line class="tick" x1="{0}%" x2="{0}%" y1="11" y2="17"/>'
            '<text x="{0}%" y="8" text-anchor="{1}">{2}</text>',
            (
                (self.place(at), anchor, _("now") if at == self.now else f"{at:%Y-%m-%d}")
                for at, anchor in marks
            ),
        )
        return format_html('<svg class="axis" aria-hidden="true">{}</svg>', drawn)

    def lane(self, version: Version, label: str) -> SafeString:
        renews = min(version.renews or version.ends, version.ends)
        begin, notch, end = map(self.place, (version.begins, renews, version.ends))
        parts = [
            format_html(
                '<line class="now" x1="{0}%" x2="{0}%" y1="-9" y2="25"/>', self.place(self.now)
            )
        ]
        if version.window:
            left, right = map(self.place, version.window)
            box = '<rect class="window" x="{}%" y="1" width="{}%" height="14"/>'
            parts.append(format_html(box, left, round(max(right - left, 0.4), 2)))
        line = '<line class="plan" x1="{}%" x2="{}%" y1="8" y2="8"/>'
        parts.append(format_html(line, begin, notch))
        if notch < end:
            rest = '<rect class="{}" x="{}%" y="5.5" width="{}%" height="5"/>'
            kind = "gone" if version.is_gone else "keep"
            parts.append(format_html(rest, kind, notch, round(end - notch, 2)))
            parts.append(
                format_html('<line class="notch" x1="{0}%" x2="{0}%" y1="1" y2="15"/>', notch)
            )
        parts.append(format_html('<rect class="end" x="{}%" y="4" width="4" height="8"/>', end))
        drawn = format_html_join("", "{}", ((each,) for each in parts))
        return format_html('<svg class="life" role="img" aria-label="{}">{}</svg>', label, drawn)


def six(done: int, now: str, label: str) -> SafeString:
    """Return the six steps as one small drawing. `now` is the kind of the step after `done`."""
    parts = []
    for number in range(6):
        left = round(number * 15.6, 1)
        if number < done:
            parts.append(
                format_html('<rect class="done" x="{}" y="1" width="13" height="8"/>', left)
            )
        elif number == done and now == "fails":
            cross = '<path d="M{} 1l9 8m0-8-9 8" stroke="currentColor" stroke-width="2.2"/>'
            parts.append(format_html(cross, left + 2))
        elif number == done and now:
            box = '<rect class="now" x="{}" y="1.5" width="12" height="7" fill="none"/>'
            parts.append(format_html(box, left + 0.5))
        else:
            line = '<rect class="ahead" x="{}" y="4" width="12" height="2"/>'
            parts.append(format_html(line, left + 0.5))
    drawn = format_html_join("", "{}", ((each,) for each in parts))
    return format_html(
        '<svg class="six {}" role="img" aria-label="{}" viewBox="0 0 92 10">{}</svg>',
        now,
        label,
        drawn,
    )


MOST_BOXES = 60


def bucket(left: float, capacity: float, label: str) -> SafeString:
    """Return the tokens of a limit: one box for each, or one bar when they are many."""
    whole, all_of = int(left), int(capacity)
    box = '<rect class="{}" x="{}%" y="2" width="{}%" height="10"/>'
    if all_of <= MOST_BOXES:
        width = round(62 / all_of, 2)
        boxes = (
            ("full" if number < whole else "spent", round(number * 100 / all_of + 0.1, 2), width)
            for number in range(all_of)
        )
        drawn = format_html_join("", box, boxes)
    else:
        share = round(max(0.0, min(left / capacity, 1.0)) * 100, 1)
        drawn = format_html_join("", box, (("spent", 0, 100), ("full", 0, share)))
    svg = '<svg class="bucket" role="img" aria-label="{}">{}</svg>'
    return format_html(svg, label, drawn)
