"""The fourth step: answer the challenges (RFC 8555, section 7.5.1)."""

from authorities import clients
from certctrl import clock
from certctrl.turns import LostTurn
from issuance.models import Authorization, Issuance
from issuance.workflow.outcome import Done
from issuance.workflow.steps import order
from issuance.workflow.steps.authorizations import read_answered
from issuance.workflow.steps.reorder import after_invalid, wait_for_ca

State = Issuance.State


def validate(issuance: Issuance) -> Done:
    """Answer the challenges, because everything shows that the CA looks for. Then read the order.

    Raise Wait while the CA checks the challenges, and Refused when the order is invalid.
    """
    client = clients.client_for(issuance.account)
    pending, unheard = issuance.authorizations.filter(status=Authorization.Status.PENDING), ""
    for authorization in pending.filter(answered_at=None):
        issuance.breathe()
        if why := client.answer(authorization.challenge_url):
            unheard = f"{why} The response is sent again."
            continue
        mine = Authorization.objects.filter(issuance__holder=issuance.holder, pk=authorization.pk)
        if not mine.update(answered_at=clock.now()):
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
