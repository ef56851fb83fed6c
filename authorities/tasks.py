"""Celery tasks for accounts."""

from celery import shared_task

from authorities import registration
from certctrl.dispatch import under_own_turn


@shared_task(name="issuance.register")
def register(account_id: int) -> None:
    under_own_turn(registration.register, account_id)
