"""The task that mails a code. The row decides whether it is due."""

from celery import shared_task

from certctrl.dispatch import under_own_turn
from signin import mails


@shared_task(name="signin.send_code")
def send_code(row_id: int) -> None:
    under_own_turn(mails.send, row_id)
