"""The fourth step: answer the challenges (RFC 8555, section 7.5.1)."""

from typing import Any

from django.db.models import QuerySet

from authorities import clients
from certctrl import clock
from certctrl.statements import Parameter, select, update
from certctrl.turns import LostTurn
from issuance.models import Authorization, Issuance
from issuance.workflow.outcome import Done
from issuance.workflow.steps import order
from issuance.workflow.steps.authorizations import read_answered
from issuance.workflow.steps.reorder import after_invalid, wait_for_ca

State = Issuance.State


@select
def _unanswered(issuance: Parameter) -> QuerySet[Authorization, Any]:
    pending = Authorization.objects.filter(issuance=issuance, status=Authorization.Status.PENDING)
    return pending.filter(answered_at=None).values_list("pk", "challenge_url")


@update
def _note_answer(
    holder: Parameter, pk: Parameter, at: Parameter
) -> tuple[QuerySet[Authorization], dict[str, Any]]:
    mine = Authorization.objects.filter(issuance__holder=holder, pk=pk)
    return mine, {"answered_at": at}


def validate(issuance: Issuance) -> Done:
    """Answer the challenges, because everything shows that the CA looks for. Then read the order.

    Raise Wait while the CA checks the challenges, and Refused when the order is invalid.
    """
    client = clients.client_for(issuance.account)
    unheard = ""
    for pk, challenge_url in _unanswered(issuance=issuance.pk):
        issuance.breathe()
        if why := client.answer(challenge_url):
            unheard = f"{why} The response is sent again."
            continue
        if not _note_answer(holder=issuance.holder, pk=pk, at=clock.now()):
            raise LostTurn
    resource = client.read_order(issuance.order_url)
    if resource.status == "pending":
        if more := order.unlisted(issuance, resource):
            what = f"the CA lists {len(more)} more authorizations than at first"
            return Done(what, write=lambda: order.note_list(issuance, more), to=State.QUEUED)
        said = read_answered(issuance, client)
        raise wait_for_ca(
            issuance, resource, unheard or said or "The CA is checking the challenges."
        )
    if resource.status == "invalid":
        return after_invalid(issuance, client, resource)
    is_ready = resource.status == "ready"
    # Without the URL, the next step reads the order before it sends the CSR.
    return Done("the CA validated every name", {} if is_ready else {"finalize_url": ""})
