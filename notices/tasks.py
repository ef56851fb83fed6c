"""The task of notices. It gets the id of a delivery, and the row decides whether it is due."""

import structlog
from celery import shared_task

from certctrl.turns import LostTurn, Wait
from notices import delivery

logger = structlog.get_logger()


@shared_task(name="notices.deliver")
def deliver(delivery_id: int) -> None:
    try:
        delivery.deliver(delivery_id)
    except (Wait, LostTurn) as why:
        logger.info("turn.ended", delivery=delivery_id, why=str(why))
