"""Sends a delivery in a turn of its own.

A delivery ends as sent, or as given up with the reason. It has its own retry table. A worker may be
killed after the receiver accepted a delivery and before the commit. The delivery is then sent
twice. Both mails have the same Message-ID, and both posts the same `webhook-id`, because the row
gives these ids. So receivers can detect the duplicate.
"""

from datetime import timedelta

import structlog
from django.db import transaction

from accounts import audit
from certctrl import clock, lanes
from certctrl.errors import Conflict
from certctrl.lanes import Lane
from certctrl.sentences import sentence as _
from certctrl.turns import LostTurn, Trouble, Wait
from notices import digest, mail, posting
from notices.models import Delivery, Notice

logger = structlog.get_logger()

# Seconds to wait after the nth failure, as Standard Webhooks suggests.
# A delivery that fails once more is given up.
RETRIES = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)

MAIL = Lane("mail", _("the mail server"))


def deliver(delivery_id: int) -> None:
    """Send the delivery, if it is due.

    Raise Wait while another worker holds the delivery. Raise LostTurn if the turn took too long.
    """
    rows = Delivery.objects.select_related("owner", "notice", "webhook__secret", "webhook__address")
    with rows.turn(delivery_id) as delivery:
        try:
            was_sent = _send(delivery)
        except (Wait, LostTurn):
            raise
        except Trouble as trouble:
            _try_again(delivery, trouble)
        except Exception:
            logger.exception("notice.failed", delivery=delivery.pk)
            _try_again(
                delivery,
                Trouble("internal", _("Internal error; the server log has the details.")),
            )
        else:
            if was_sent:
                _end(delivery, sent_at=clock.now(), error_what="")
                logger.info("notice.sent", delivery=delivery.pk, channel=delivery.channel)


@transaction.atomic
def send_again(delivery: Delivery) -> None:
    """Try a delivery that was given up once more. Raise Conflict for another one."""
    given_up = Delivery.objects.filter(pk=delivery.pk, given_up_at__isnull=False, digest=None)
    anew = {"given_up_at": None, "stumbles": 0, "wake_at": clock.now(), "queued_at": None}
    if not given_up.update(**anew):
        raise Conflict(
            _("Only a delivery that was given up is sent again. A digest is sent whole.")
        )
    delivery.held.update(given_up_at=None)
    audit.note_row(delivery, "delivery.sent_again")


def send_notice_again(notice: Notice) -> None:
    """Try the deliveries of a notice that were given up once more.

    Raise Conflict if none was given up.
    """
    given_up = notice.deliveries.filter(given_up_at__isnull=False, digest=None)
    rows = list(given_up.select_related("owner"))
    if not rows:
        raise Conflict(_("No delivery of the notice %(pk)s was given up.", pk=notice.pk))
    for row in rows:
        send_again(row)


def _send(delivery: Delivery) -> bool:
    """Send the delivery. Return False if it is held for a digest instead."""
    if delivery.channel == Delivery.Channel.WEBHOOK:
        host = delivery.webhook.host if delivery.webhook else ""
        with lanes.enter(lane_of(delivery.channel, host), delivery.owner_id):
            posting.post(delivery)
    elif digest.goes_out(delivery):
        with lanes.enter(MAIL, delivery.owner_id):
            mail.send(delivery)
    else:
        return False
    return True


def lane_of(channel: str, host: str | None) -> Lane:
    """Return the lane of a delivery: the mail server, or the host of its webhook."""
    if channel == Delivery.Channel.EMAIL:
        return MAIL
    return Lane(f"hook:{host}", _("the webhook at %(host)s", host=host), ends_early=True)


def _try_again(delivery: Delivery, trouble: Trouble) -> None:
    stumbles = delivery.stumbles + 1
    logger.warning(
        "notice.not_sent", delivery=delivery.pk, channel=delivery.channel, code=trouble.code
    )
    if trouble.permanent or stumbles > len(RETRIES):
        return _end(delivery, given_up_at=clock.now(), error_what=trouble.what)
    pause = max(RETRIES[stumbles - 1], min(trouble.retry_after or 0, RETRIES[-1]))
    return delivery.rest(timedelta(seconds=pause), stumbles=stumbles, error_what=trouble.what)


def _end(delivery: Delivery, **fields: object) -> None:
    """End a delivery. The mails that a digest contains end together with the digest."""
    with delivery.fence():
        if delivery.is_digest:
            delivery.held.update(**fields)
        delivery.give_back(None, **fields)
