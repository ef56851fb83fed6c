"""The fifth step: send the CSR (RFC 8555, section 7.4)."""

from datetime import timedelta

from authorities import clients
from authorities.base import CA, OrderResource
from authorities.errors import Refused
from certctrl import clock
from certctrl.sentences import sentence as _
from certctrl.turns import Wait
from issuance.models import Issuance
from issuance.workflow import csr
from issuance.workflow.outcome import Done
from issuance.workflow.steps.reorder import after_invalid, wait_for_ca

# After the CSR is sent, the attempt gives up this much later, or when the order expires sooner.
FINALIZE_LIMIT = timedelta(hours=24)


def finalize(issuance: Issuance) -> Done:
    """Send the CSR, or read the order and do what its status asks for.

    The CA's status decides, not the row. Raise Wait while the CA signs, and Refused when the order
    is invalid.
    """
    client = clients.client_for(issuance.account)
    resource = _ready(issuance) or client.read_order(issuance.order_url)
    if resource.status == "ready":
        if not resource.finalize_url:
            raise wait_for_ca(
                issuance,
                resource,
                _("The order is ready, and the CA does not show its finalize URL yet."),
            )
        if not issuance.csr_sent_at:
            csr.replace_unfit(issuance)
        _say_that_the_csr_is_sent(issuance, resource)
        resource = _send_csr(issuance, client, resource)
    if resource.status == "invalid":
        return after_invalid(issuance, client, resource)
    if resource.status != "valid":
        what = (
            _("The CA is signing.")
            if issuance.csr_sent_at
            else _("The CA does not show the order as ready any more.")
        )
        raise wait_for_ca(issuance, resource, what)
    url = certificate_url_of(issuance, resource)
    return Done(_("the CA signed"), {"certificate_url": url})


def _ready(issuance: Issuance) -> OrderResource | None:
    """Return the order as ready when the step before has just seen it so.

    Return None when the order must be read.
    """
    if issuance.csr_sent_at or issuance.waits_for or not issuance.finalize_url:
        return None
    return OrderResource(url=issuance.order_url, status="ready", finalize_url=issuance.finalize_url)


def certificate_url_of(issuance: Issuance, resource: OrderResource) -> str:
    """Return the URL of the certificate. Raise Wait while the order does not have it.

    Some CAs show an order as valid some time before they show the URL.
    """
    if not resource.certificate_url:
        raise wait_for_ca(
            issuance,
            resource,
            _("The CA signed, and does not show the URL of the certificate yet."),
        )
    return resource.certificate_url


def _send_csr(issuance: Issuance, client: CA, resource: OrderResource) -> OrderResource:
    """Send the CSR and return the order.

    Many CAs sign within milliseconds. So read the order at once, unless the CA asks for a pause.
    The CSR may be refused because the order has moved on. Then read the order once more.
    """
    try:
        sent = client.finalize(resource, issuance.csr_pem)
    except Refused:
        seen = client.read_order(issuance.order_url)
        if seen.status in ("processing", "valid"):
            return seen
        raise
    except Wait as wait:  # orderNotReady, although the order was read as ready
        raise Wait(max(wait.seconds, issuance.patience()), wait.what) from None
    if sent.status == "processing" and sent.retry_after is None:
        return client.read_order(issuance.order_url)
    return sent


def _say_that_the_csr_is_sent(issuance: Issuance, resource: OrderResource) -> None:
    if issuance.csr_sent_at:
        return
    now = clock.now()
    deadline = min(now + FINALIZE_LIMIT, resource.expires_at or now + FINALIZE_LIMIT)
    expires_at = resource.expires_at or issuance.order_expires_at
    issuance.write(
        csr_sent_at=now,
        deadline_at=max(deadline, issuance.deadline_at),
        order_expires_at=expires_at,
    )
