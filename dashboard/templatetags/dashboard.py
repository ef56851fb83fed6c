"""Words, moments, marks and bars of the pages."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from certctrl import clock
from dashboard import drawing
from dnsclient.names import registered_domain
from issuance import services

register = template.Library()

NONE = "\N{EN DASH}"
SELECTED = mark_safe(" selected")
MINUTE, HOUR, DAY = 60, 3600, 86400
TWO_UNITS = 2 * DAY  # a shorter distance has two units


@register.filter
def lang_tag(code: str) -> str:
    """Return Django's language code as HTML writes it."""
    return {"zh-hans": "zh-Hans"}.get(code, code)


@register.filter
def host(name: str) -> SafeString:
    """Return a host name with its registered domain in a lighter ink."""
    domain = registered_domain(name.removeprefix("*."))
    own = name.removesuffix(domain)
    if not own:
        return format_html('<span class="name" translate="no">{}</span>', name)
    return format_html('<span class="name" translate="no">{}<i>{}</i></span>', own, domain)


@register.filter
def moment(at: datetime | None) -> SafeString | str:
    """Return a time in UTC, to the minute."""
    if at is None:
        return NONE
    return format_html(
        '<time datetime="{}">{}</time>', at.strftime("%Y-%m-%dT%H:%MZ"), f"{at:%Y-%m-%d %H:%M}"
    )


@register.filter
def day(at: datetime | None) -> SafeString | str:
    if at is None:
        return NONE
    return format_html(
        '<time datetime="{}">{}</time>', at.strftime("%Y-%m-%dT%H:%MZ"), f"{at:%Y-%m-%d}"
    )


@register.filter
def clock_time(at: datetime) -> SafeString:
    """Return a time of an attempt, to the second."""
    return format_html(
        '<time datetime="{}">{}</time>', f"{at:%Y-%m-%dT%H:%M:%SZ}", f"{at:%H:%M:%S}"
    )


def span(seconds: float) -> str:
    """Return a length of time in one unit, or in two units when it is under two days."""
    whole = max(0, int(seconds))
    if whole < MINUTE:
        return _("%(count)d s") % {"count": whole}
    for unit, smaller, texts in (
        (DAY, HOUR, (_("%(count)d d"), _("%(count)d h"))),
        (HOUR, MINUTE, (_("%(count)d h"), _("%(count)d min"))),
        (MINUTE, 1, (_("%(count)d min"), _("%(count)d s"))),
    ):
        if whole >= unit:
            first = texts[0] % {"count": whole // unit}
            rest = whole % unit // smaller
            if not rest or whole >= TWO_UNITS:
                return first
            return f"{first} {texts[1] % {'count': rest}}"
    raise AssertionError


@register.filter
def distance(at: datetime | None) -> str:
    """Return how far a time is from now, in words."""
    if at is None:
        return ""
    seconds = (at - clock.now()).total_seconds()
    text = _("in %(span)s") if seconds >= 0 else _("%(span)s ago")
    return (text % {"span": span(abs(seconds))}).replace(" ", "\N{NO-BREAK SPACE}")


@register.filter
def took(length: timedelta | int | None) -> str:
    """Return how long something took. A number is milliseconds."""
    if length is None:
        return ""
    seconds = length.total_seconds() if isinstance(length, timedelta) else length / 1000
    return _("%(count).1f s") % {"count": seconds} if seconds < 10 else span(seconds)


@register.filter
def thousands(number: int) -> str:
    return f"{number:,}"


@register.filter
def counted(number: int) -> str:
    """Return a number that `services.count` has returned."""
    return f"{thousands(number)}+" if number >= services.MOST_COUNTED else str(number)


@register.filter
def count_certificates(number: int) -> str:
    text = ngettext("%(count)s certificate", "%(count)s certificates", number)
    return text % {"count": f"{number:,}"}


@register.simple_tag
def mark(name: str) -> SafeString:
    return format_html('<svg class="mark" aria-hidden="true"><use href="#m-{}"/></svg>', name)


@register.simple_tag
def state(kind: str, mark_name: str, word: str) -> SafeString:
    return format_html('<span class="state {}">{}{}</span>', kind, mark(mark_name), word)


@register.inclusion_tag("dashboard/code.html")
def code(text: str) -> dict[str, Any]:
    """Return text that a person may copy."""
    return {"text": text}


@register.simple_tag
def axis() -> SafeString:
    """Return the axis of 90 days above bars."""
    return drawing.axis()


@register.simple_tag
def options(rows: Sequence[Any], chosen: str, also: Any) -> SafeString:
    """Return the options of a select, with `also` if the rows lack it. `chosen` is an id."""
    found = [*rows, also] if also and also not in rows else rows
    shown = ((row.pk, SELECTED if str(row.pk) == chosen else "", named(row)) for row in found)
    return format_html_join("", '<option value="{}"{}>{}</option>', shown)


def named(row: Any) -> str:
    return f"{row} · {_('a private CA')}" if getattr(row, "is_private", False) else str(row)


@register.filter
def lookup(given: dict[str, str], name: str) -> str:
    return given.get(name, "")
