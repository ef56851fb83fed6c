"""The tasks of notices.

`deliver` gets the id of a delivery, and the row decides whether it is due. The clock starts
`send_audit_head` each minute, if AUDIT_HEADS_TO names a receiver.
"""

import structlog
from celery import shared_task

from certctrl.turns import LostTurn, Wait
from notices import delivery, heads

logger = structlog.get_logger()


@shared_task(name="notices.deliver")
def deliver(delivery_id: int) -> None:
    try:
        delivery.deliver(delivery_id)
    except (Wait, LostTurn) as why:
        logger.info("turn.ended", delivery=delivery_id, why=str(why))


@shared_task(name="notices.send_audit_head")
def send_audit_head() -> None:
    heads.send()
