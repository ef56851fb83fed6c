"""The third step: look whether everything shows that the CA will look for."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from certctrl.sentences import joined
from certctrl.sentences import sentence as _
from issuance.challenges import registry
from issuance.models import Issuance
from issuance.workflow.outcome import Done
from issuance.workflow.steps import authorizations

State = Issuance.State


def propagate(issuance: Issuance) -> Done:
    """Look once whether the challenges of the attempt show. Raise Wait while they do not."""
    return judge(issuance, look([issuance])[issuance.pk])


def look(issuances: Sequence[Issuance]) -> dict[int, dict[str, Any]]:
    """Look once for all attempts. Return what was seen, by attempt and type of challenge."""
    seen: dict[int, dict[str, Any]] = {each.pk: {} for each in issuances}
    for kind, pending in authorizations.pending_of(issuances).items():
        for pk, found in registry.of(kind).look(pending).items():
            seen[pk][kind] = found
    return seen


def judge(issuance: Issuance, seen: Mapping[str, Any]) -> Done:
    """Decide what one look means for an attempt. `seen` is by the type of challenge.

    Return Done to go on, or to present challenges again. Raise Wait for another look later.
    """
    judged = {kind: registry.of(kind).judge(issuance, found) for kind, found in seen.items()}
    again = {kind: each.absent for kind, each in judged.items() if each.absent}
    what = joined("; ", (each.what for kind, each in judged.items() if not again or kind in again))
    if again:
        fields = {"presents": issuance.presents + 1, "settles_at": None}
        write = partial(present_again, again)
        return Done(what, fields, write=write, to=State.ORDERED, again=again)
    return Done(what or _("the CA needs no proof"))


def present_again(absent: Mapping[str, Sequence[int]]) -> None:
    """Mark what is absent, by the type of challenge, so that `present` makes it again."""
    for kind, ids in absent.items():
        registry.of(kind).present_again(ids)
