"""Posts to webhooks, signed by Standard Webhooks 1.0.0: https://www.standardwebhooks.com"""

import json

import requests
import standardwebhooks
from django.views.decorators.debug import sensitive_variables

from certctrl import clock, outgoing
from certctrl.sentences import said_by
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble
from keystore import envelope
from notices import moments
from notices.models import Delivery, Notice, Webhook

Kind = Notice.Kind
GONE = 410  # the receiver wants no more posts, see Standard Webhooks
TYPES = {
    Kind.RENEWED: "certificate.renewed",
    Kind.RENEWAL_FAILED: "certificate.renewal_failed",
    Kind.EXPIRING: "certificate.expiring",
    Kind.CA_EXPIRING: "ca.expiring",
    Kind.ACTION_NEEDED: "certificate.action_needed",
    Kind.NOT_SERVED: "certificate.not_served",
    Kind.RECORD_LEFT_BEHIND: "record.left_behind",
    Kind.CREDENTIAL_REFUSED: "credential.refused",
    Kind.AUDIT_HEAD: "audit.head",
    Kind.TEST: "test",
}


def post(delivery: Delivery) -> None:
    """Post the notice to its webhook. Every 2xx status means that the notice arrived.

    Raise Trouble. It is permanent if the webhook was disabled or removed. A response with status
    410 disables the webhook.
    """
    webhook = delivery.webhook
    assert webhook
    if webhook.retired_at or webhook.disabled_at:
        raise Trouble("webhook_disabled", _("The webhook was disabled or deleted."), permanent=True)
    body = payload(delivery)
    try:
        with outgoing.named_by_tenant(not delivery.owner.is_staff):
            response = outgoing.session().post(
                webhook.url,
                data=body,
                headers=signed(delivery, webhook, body),
                allow_redirects=False,
            )
    except requests.RequestException as exc:
        raise _noted(webhook, Trouble("webhook_unreachable", said_by(exc))) from None
    if response.status_code == GONE:
        Webhook.objects.filter(pk=webhook.pk).update(disabled_at=clock.now())
    if not 200 <= response.status_code < 300:
        raise _noted(webhook, _refused(webhook, response))
    Webhook.objects.filter(pk=webhook.pk).exclude(last_error="").update(last_error="")


def payload(delivery: Delivery) -> bytes:
    """Return the body that is signed and posted. It is the same at each try."""
    notice = delivery.notice
    assert notice
    data = {"notice_id": notice.pk, "subject": notice.subject, "text": notice.body} | notice.data
    told = {
        "type": TYPES[Kind(notice.kind)],
        "timestamp": moments.for_programs(notice.raised_at),
        "data": data,
    }
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()


@sensitive_variables()
def signed(delivery: Delivery, webhook: Webhook, body: bytes) -> dict[str, str]:
    """Return the headers of one try: the delivery's id, the time of the try, the signature."""
    assert webhook.secret, "only a deleted webhook has none"
    now, message_id = clock.now(), f"msg_{delivery.uuid.hex}"
    signer = standardwebhooks.Webhook(envelope.unseal(webhook.secret).decode())
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signer.sign(message_id, now, body.decode()),
    }


def _refused(webhook: Webhook, response: requests.Response) -> Trouble:
    what = _(
        "%(host)s answered %(status_code)s", host=webhook.host, status_code=response.status_code
    )
    if response.status_code == GONE:
        what = _(
            "%(what)s, so it wants no more notices. The webhook is disabled. Change or delete it.",
            what=what,
        )
        return Trouble("webhook_gone", what, permanent=True)
    if 300 <= response.status_code < 400:
        what = _("%(what)s. Redirects are not followed. Give the final address.", what=what)
    else:
        what = _("%(what)s.", what=what)
    return Trouble("webhook_refused", what, retry_after=outgoing.wait_of(response))


def _noted(webhook: Webhook, trouble: Trouble) -> Trouble:
    Webhook.objects.filter(pk=webhook.pk).update(last_error=trouble.what)
    return trouble
