"""Mails: what they say, and handing them to the mail server (any backend of Django or django-anymail, by setting)."""

import smtplib
from email.utils import parseaddr
from typing import Any

import requests
import structlog
from anymail.exceptions import AnymailError
from django.conf import settings
from django.core import mail
from django.core.mail import EmailMessage

from certctrl import clock, outgoing
from certctrl.log import mask
from certctrl.turns import Trouble
from notices import moments
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
    except (smtplib.SMTPException, AnymailError, OSError) as exc:
        raise Trouble("mail_failed", _why(exc)) from None


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
    connection: Any = mail.get_connection(timeout=min(settings.EMAIL_TIMEOUT, clock.time_left()))
    if hasattr(connection, "create_session"):  # anymail's backends for HTTP APIs
        connection.session = outgoing.session()
    return connection


def _close(connection: Any) -> None:
    """What was accepted was accepted, however the good-bye goes."""
    try:
        connection.close()
    except (smtplib.SMTPException, OSError) as exc:
        logger.info("mail.close_failed", error=type(exc).__name__)


def _why(exc: Exception) -> str:
    """A sentence without the answer to a log-in, which may repeat what was sent."""
    if isinstance(exc, smtplib.SMTPRecipientsRefused):
        code, words = next(iter(exc.recipients.values()))
        return f"The mail server refused the address ({code}): {_words(words)}"
    if isinstance(exc, smtplib.SMTPAuthenticationError):
        return f"The mail server refused to log us in ({exc.smtp_code}): the operator must look at EMAIL_HOST_USER."
    if isinstance(exc, smtplib.SMTPResponseException):
        return f"The mail server answered {exc.smtp_code}: {_words(exc.smtp_error)}"
    if isinstance(exc, smtplib.SMTPServerDisconnected):
        return "The mail server hung up, or did not answer in time."
    if isinstance(exc.__cause__, requests.RequestException):
        return f"The mail service could not be reached. {exc.__cause__}"
    if isinstance(exc, AnymailError):
        return f"The mail service refused the mail ({getattr(exc, 'status_code', None) or type(exc).__name__})."
    return f"The mail server could not be reached ({type(exc).__name__})."


def _words(said: bytes | str) -> str:
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    return mask(" ".join(text.split()))[:200]
