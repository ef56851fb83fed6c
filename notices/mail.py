"""Mails: what they say, and handing them to the mail server (any backend of Django or django-anymail, by setting)."""

import smtplib
from email.utils import parseaddr
from typing import Any

import requests
import structlog
from anymail.exceptions import AnymailConfigurationError, AnymailError
from django.conf import settings
from django.core import mail
from django.core.mail import EmailMessage

from certctrl import clock, outgoing
from certctrl.turns import Trouble
from notices import moments, smtp
from notices.models import Delivery, Notice, settings_of

logger = structlog.get_logger()

LISTED = 200  # of a digest's notices, one line each
FOOTER = "\n\n-- \ncertctrl. What is told, and where to, is in your notice settings.\n"


def send(delivery: Delivery) -> None:
    """Hand the mail to the mail server. Raises Trouble, permanent when nobody is to be told by mail any more."""
    message = message_of(delivery)
    try:
        connection = _connection()
        try:
            connection.open()
            connection.send_messages([message])
        finally:
            _close(connection)
    except (smtplib.SMTPException, AnymailError, AnymailConfigurationError, ImportError, OSError) as exc:
        raise _trouble(exc) from None


def message_of(delivery: Delivery) -> EmailMessage:
    """The mail of a delivery, with the same Message-ID whenever it is made."""
    wanted = settings_of(delivery.owner_id)
    if not (settings.MAIL_IS_SET_UP and wanted.email_on):
        raise Trouble("mail_off", "Mails are turned off.", permanent=True)
    subject, body = _digest(delivery) if delivery.notice is None else (delivery.notice.subject, delivery.notice.body)
    domain = parseaddr(settings.NOTICE_FROM)[1].rpartition("@")[2]
    headers = {"Message-ID": f"<{delivery.uuid}@{domain}>", "Auto-Submitted": "auto-generated"}
    to = wanted.email or delivery.owner.email
    return EmailMessage(subject, body + FOOTER, settings.NOTICE_FROM, [to], headers=headers)


def _digest(delivery: Delivery) -> tuple[str, str]:
    held = Notice.objects.filter(deliveries__digest=delivery).order_by("pk")
    count = held.count()
    lines = [f"{moments.for_people(each.raised_at)}  {each.subject}" for each in held[:LISTED]]
    if count > LISTED:
        lines.append(f"... and {count - LISTED} more: the list of notices in the API has them all.")
    begin = "More happened in a day than you want single mails for. This was held:\n\n"
    return f"{count} notice{'' if count == 1 else 's'} of certctrl", begin + "\n".join(lines)


def _connection() -> Any:
    backend = "notices.smtp.EmailBackend" if settings.EMAIL_BACKEND == settings.SMTP_BACKEND else None
    connection: Any = mail.get_connection(backend, timeout=min(settings.EMAIL_TIMEOUT, clock.time_left()))
    if hasattr(connection, "create_session"):  # anymail's backends for HTTP APIs
        connection.session = outgoing.session()
    return connection


def _close(connection: Any) -> None:
    """What was accepted was accepted, however the good-bye goes."""
    try:
        connection.close()
    except (smtplib.SMTPException, OSError) as exc:
        logger.info("mail.close_failed", error=type(exc).__name__)


def _trouble(exc: Exception) -> Trouble:
    if isinstance(exc, AnymailConfigurationError | ImportError):
        what = "The mail service is not set up as its backend wants it."
        return Trouble("mail_failed", f"{what} The operator must check EMAIL_BACKEND and ANYMAIL.")
    if isinstance(exc.__cause__, requests.RequestException):
        return Trouble("mail_unreachable", f"The mail service could not be reached. {exc.__cause__}")
    if isinstance(exc, AnymailError):
        status = getattr(exc, "status_code", None)
        operators = " The operator must check ANYMAIL." if status in (401, 403) else ""
        what = f"The mail service refused the mail ({status or type(exc).__name__})."
        return Trouble("mail_failed", f"{what}{operators}")
    return smtp.trouble_of(exc)
