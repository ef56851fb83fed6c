"""The fourth step: answer the challenges (RFC 8555, section 7.5.1)."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

from django.db.models import QuerySet

from authorities import clients
from certctrl import clock
from certctrl.sentences import sentence as _
from certctrl.statements import Parameter, select, update
from issuance.models import Authorization, Issuance
from issuance.workflow.outcome import Done
from issuance.workflow.steps import order
from issuance.workflow.steps.authorizations import read_answered
from issuance.workflow.steps.reorder import after_invalid, wait_for_ca

State = Issuance.State
VALIDATED = _("the CA validated every name")


def _unanswered(issuance: Issuance) -> list[tuple[int, str]]:
    """Return the id and the URL of each pending challenge that was not answered."""
    if issuance.listed is None:
        return _unanswered_in(issuance=issuance.pk)
    pending = [each for each in issuance.listed if each.status == Authorization.Status.PENDING]
    return [(each.pk, each.challenge_url) for each in pending if not each.answered_at]


@select
def _unanswered_in(issuance: Parameter) -> QuerySet[Authorization, Any]:
    pending = Authorization.objects.filter(issuance=issuance, status=Authorization.Status.PENDING)
    return pending.filter(answered_at=None).values_list("pk", "challenge_url")


@update
def _note_answer(pk: Parameter, at: Parameter) -> tuple[QuerySet[Authorization], dict[str, Any]]:
    return Authorization.objects.filter(pk=pk), {"answered_at": at}


def _note_answers(answered: Sequence[tuple[int, datetime]]) -> None:
    """Store which challenges were answered, and when. Call it inside the fence."""
    for pk, at in answered:
        _note_answer(pk=pk, at=at)


def _store_answers(issuance: Issuance, answered: Sequence[tuple[int, datetime]]) -> None:
    if answered:
        with issuance.fence():
            _note_answers(answered)


def validate(issuance: Issuance) -> Done:
    """Answer the challenges, because everything shows that the CA looks for. Then read the order.

    A worker that dies before the answers are stored sends them again, which changes nothing. Raise
    Wait while the CA checks the challenges, and Refused when the order is invalid.
    """
    client = clients.client_for(issuance.account)
    unheard = ""
    answered: list[tuple[int, datetime]] = []
    try:
        for pk, challenge_url in _unanswered(issuance):
            issuance.breathe()
            if why := client.answer(challenge_url):
                unheard = _("%(why)s The response is sent again.", why=why)
            else:
                answered.append((pk, clock.now()))
        resource = client.read_order(issuance.order_url)
    except Exception:
        _store_answers(issuance, answered)
        raise
    if resource.status == "ready":
        return Done(VALIDATED, write=partial(_note_answers, answered))
    _store_answers(issuance, answered)
    if resource.status == "pending":
        if more := order.unlisted(issuance, resource):
            what = _("the CA lists %(more)s more authorizations than at first", more=len(more))
            return Done(what, write=lambda: order.note_list(issuance, more), to=State.QUEUED)
        said = read_answered(issuance, client)
        raise wait_for_ca(
            issuance, resource, unheard or said or _("The CA is checking the challenges.")
        )
    if resource.status == "invalid":
        return after_invalid(issuance, client, resource)
    # Without the URL, the next step reads the order before it sends the CSR.
    return Done(VALIDATED, {"finalize_url": ""})
