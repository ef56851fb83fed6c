"""The task of the audit log, which the clock starts each minute."""

from celery import shared_task

from accounts import chain


@shared_task(name="accounts.seal_audit_events")
def seal_audit_events() -> None:
    chain.seal()
