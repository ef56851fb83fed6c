"""An attempt and its progress, live."""

import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from authorities import exchanges
from certctrl import clock, errors
from dashboard.certificate import certificate_of, curls
from dashboard.conditions import STEPS, condition_of_attempt, said, step_name, steps_done
from dashboard.page import Page, show
from issuance.api import attempts as api
from issuance.calls import trouble_of
from issuance.models import Certificate, Issuance, IssuanceEvent

MOST_EVENTS = 200  # the newest


def attempt_of(certificate: Certificate, pk: int) -> Issuance:
    """Return an attempt of the certificate, with its account and credential. Raise NotFound."""
    rows = certificate.issuances.select_related("account", "credential")
    found: Issuance | None = rows.filter(pk=pk).first()
    if not found:
        raise errors.NotFound(_("There is no such attempt. It may have been pruned."))
    return found


class AttemptPage(Page):
    template = "attempt.html"

    def get(self, request: HttpRequest, pk: int, attempt_id: int) -> HttpResponse:
        certificate = certificate_of(self, pk)
        issuance = attempt_of(certificate, attempt_id)
        context = facts(certificate, issuance) | {
            "here": "certificates",
            "curls": curls(request, certificate),
        }
        return show(request, self.template, context)


class AttemptPart(AttemptPage):
    """The moving part of the page, for a page without a stream."""

    template = "attempt_part.html"


def facts(certificate: Certificate, issuance: Issuance) -> dict[str, Any]:
    events = list(issuance.events.order_by("-pk")[:MOST_EVENTS])[::-1]
    waits_for = (trouble_of(issuance) or issuance.waits_for) if issuance.is_open else ""
    servers = servers_of(issuance)
    return {
        "certificate": certificate,
        "attempt": issuance,
        "mark": mark_of(issuance, events[-1].pk if events else 0),
        "condition": condition_of_attempt(issuance),
        "steps": steps_of(issuance, events, waits_for),
        "waits_for": waits_for,
        "looks_again_at": issuance.wake_at if issuance.wake_at and not issuance.holder else None,
        "may_be_canceled": issuance.state in Issuance.BEFORE_VALIDATED,
        "servers": servers,
        "showing": len([each for each in servers if each["state"] == "shows"]),
        "usual": usual(certificate) if issuance.is_open else None,
        "ca_said": said(issuance.error_what),
        "is_debugged": exchanges.is_on(issuance.account),
        "records": list(
            issuance.authorizations.filter(record__isnull=False)
            .select_related("record")
            .order_by("pk")[:20]
        ),
    }


def mark_of(issuance: Issuance, last_event: int) -> str:
    """Return the mark of what the page shows. It changes with each move of the attempt."""
    shown = (issuance.state, issuance.waits_for, api.name_servers(issuance))
    return f"{last_event}-{zlib.crc32(repr(shown).encode()):08x}"


def servers_of(issuance: Issuance) -> list[dict[str, Any]]:
    """Return the name servers of the last look, with the mark and the word of each."""
    words = {
        "shows": ("plain", "works", _("shows it")),
        "missing": ("waits", "waits", _("not yet")),
        "silent": ("waits", "waits", _("does not answer")),
        "skipped": ("plain", "off", _("cannot be asked")),
    }
    return [
        {
            "server": each["server"],
            "state": each["state"],
            "shown": words[each["state"]],
            "since": datetime.fromtimestamp(each["since"], UTC),
        }
        for each in api.name_servers(issuance)
    ]


def usual(certificate: Certificate) -> timedelta | None:
    """Return how long the last five attempts that issued took, on average."""
    issued = certificate.issuances.filter(state=Issuance.State.ISSUED).order_by("-pk")
    took = [end - begin for begin, end in issued.values_list("created_at", "ended_at")[:5] if end]
    return sum(took, timedelta()) / len(took) if took else None


def steps_of(
    issuance: Issuance, events: Sequence[IssuanceEvent], waits_for: str
) -> list[dict[str, Any]]:
    """Return the six steps with their events, their times and how each stands."""
    done_at = {each.step: each for each in events if each.outcome == IssuanceEvent.Outcome.DONE}
    failed = [each for each in events if each.outcome == IssuanceEvent.Outcome.FAILED]
    failed_at = failed[-1].step if failed and issuance.state == Issuance.State.FAILED else ""
    if issuance.is_open:
        reached = steps_done(issuance)
    elif issuance.state == Issuance.State.ISSUED:
        reached = len(STEPS)
    else:
        reached = len([step for step in STEPS if step in done_at])
        if failed_at in STEPS:
            reached = STEPS.index(failed_at)
    steps = []
    for number, step in enumerate(STEPS):
        done = done_at.get(step)
        kind, mark = "ahead", "ahead"
        if number < reached:
            kind, mark = "done", "works"
        elif number == reached and issuance.is_open:
            kind, mark = "now", "waits" if waits_for else "goes"
        elif number == reached and issuance.state == Issuance.State.FAILED:
            kind, mark = "failed", "fails"
        # A preflight is a part of the first step.
        named = [step] if number else [step, "preflight"]
        own = [each for each in events if each.step in named]
        shown_below = {"now": waits_for, "failed": issuance.error_what}.get(kind)
        told = [each for each in own if each.what != shown_below]
        steps.append(
            {
                "name": step_name(step),
                "about": about(step),
                "kind": kind,
                "mark": mark,
                "at": own[0].at if own else (issuance.state_since if kind == "now" else None),
                "took": done.took_ms if done and kind == "done" else None,
                "so_far": clock.now() - issuance.state_since if kind == "now" else None,
                "events": told[-5:],
            }
        )
    return steps


def about(step: str) -> str:
    return {
        "order": _("the CA accepts an order"),
        "present": _("the TXT records are written"),
        "propagate": _("every name server must show the records"),
        "validate": _("the CA looks for the records"),
        "finalize": _("the CA signs"),
        "download": _("the chain is checked and stored, and the TXT records are removed"),
    }[step]
