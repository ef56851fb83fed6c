"""Send a new order, once, when an order is of no use."""

from authorities.base import CA, OrderResource
from authorities.errors import Refused
from certctrl.sentences import sentence as _
from certctrl.turns import Wait
from issuance.models import Issuance
from issuance.workflow import oldorders
from issuance.workflow.outcome import Done
from issuance.workflow.steps.authorizations import read_answered

State = Issuance.State


def after_invalid(issuance: Issuance, client: CA, resource: OrderResource) -> Done:
    """Order again, once, when the invalid order is of an earlier attempt.

    This happens once in an attempt. Otherwise raise Refused with the CA's problem.
    """
    if not issuance.orders and oldorders.earlier(issuance).exists():
        return order_again(issuance, _("the CA returned an order that had failed before"))
    read_answered(issuance, client, most=None)
    what = _("The CA refused the order for %(domain)s.", domain=issuance.certificate.domain)
    if resource.problem:
        raise resource.problem.refused(what)
    raise Refused(
        "ca_order_invalid",
        _("%(what)s It gives no reason. A new attempt sends a new order.", what=what),
    )


def order_again(issuance: Issuance, what: str) -> Done:
    """Return the Done that forgets the order and goes back to the first step."""
    return Done(
        _("%(what)s; a new order is sent", what=what),
        oldorders.without_order(issuance),
        write=lambda: oldorders.forget(issuance),
        to=State.QUEUED,
    )


def wait_for_ca(issuance: Issuance, resource: OrderResource, what: str) -> Wait:
    """Return a Wait for the order, as long as the CA asks for or the attempt's patience.

    The longer of the two counts. The text includes a problem that the order carries.
    """
    asked = issuance.spread(resource.retry_after or 0)
    patience = issuance.patience()
    if resource.problem:
        what = _("%(what)s The CA says: %(said)s", what=what, said=resource.problem)
    return Wait(max(asked, patience), what, imposed=asked > patience, own=patience)


def order_again_once(issuance: Issuance, what: str) -> Done:
    """Return `order_again`. Raise Refused when the attempt has ordered again before."""
    if issuance.orders:
        what = _(
            "A second order for %(domain)s failed in the same way: %(what)s.",
            domain=issuance.certificate.domain,
            what=what,
        )
        raise Refused("ca_order_used", what)
    return order_again(issuance, what)
