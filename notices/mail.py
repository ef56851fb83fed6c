"""The text of mails, and their way to the mail server.

The setting EMAIL_BACKEND names any backend of Django or django-anymail.
"""

import re
import smtplib
import textwrap
from email.utils import parseaddr
from typing import Any
from uuid import UUID

import requests
import structlog
from anymail.exceptions import AnymailConfigurationError, AnymailError
from django.conf import settings
from django.core import mail
from django.core.mail import EmailMessage
from django.utils import translation

from certctrl import clock, outgoing
from certctrl.sentences import part_of
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble
from notices import addresses, moments, smtp
from notices.models import Delivery, Notice, NoticeSettings, settings_of

logger = structlog.get_logger()

LISTED = 200  # notices listed in a digest, one line each
QUOTED = 400  # characters of a quotation
SAID = _("The CA, the DNS provider or this server said:")
LINKS = (
    (re.compile(r"://"), "[:]//"),
    (re.compile(r"\b(www|mailto|tel)([.:])", re.IGNORECASE), r"\1[\2]"),
    (re.compile(r"(\S)@(\S)"), r"\1[at]\2"),
    (re.compile(r"(\w\.\w[\w-]*)([/?#])"), r"\1[\2]"),
)
FOOTER = _("certctrl. Your notice settings say which notices are sent, and to which address.")


def send(delivery: Delivery) -> None:
    """Send the mail to the mail server.

    Raise Trouble. It is permanent if mails are turned off or no address is confirmed. It is also
    permanent if the mail's code has expired or was replaced.
    """
    hand_over(message_of(delivery))


def hand_over(message: EmailMessage) -> None:
    """Give a mail to the mail server. Raise Trouble."""
    try:
        connection = _connection()
        try:
            connection.open()
            connection.send_messages([message])
        finally:
            _close(connection)
    except (
        smtplib.SMTPException,
        AnymailError,
        AnymailConfigurationError,
        ImportError,
        OSError,
    ) as exc:
        raise _trouble(exc) from None


def message_of(delivery: Delivery) -> EmailMessage:
    """Return the mail of a delivery, in the owner's language.

    Its Message-ID is the same at each try.
    """
    wanted = settings_of(delivery.owner_id)
    with translation.override(wanted.owner.language):
        return _message_of(delivery, wanted)


def _message_of(delivery: Delivery, wanted: NoticeSettings) -> EmailMessage:
    notice = delivery.notice
    if notice and notice.kind == Notice.Kind.CONFIRM_ADDRESS:
        to = notice.data["email"]
        subject, body = _code(wanted, notice)
    else:
        to = _address(wanted)
        subject, body = _digest(delivery) if notice is None else (notice.subject, quoting(notice))
    return message(delivery.uuid, str(subject), f"{body}\n\n-- \n{FOOTER}\n", to)


def message(uuid: UUID, subject: str, body: str, to: str) -> EmailMessage:
    """Return a mail. The same `uuid` gives the same Message-ID."""
    domain = parseaddr(settings.NOTICE_FROM)[1].rpartition("@")[2]
    headers = {"Message-ID": f"<{uuid}@{domain}>", "Auto-Submitted": "auto-generated"}
    return EmailMessage(subject, body, settings.NOTICE_FROM, [to], headers=headers)


def _address(wanted: NoticeSettings) -> str:
    if not (settings.MAIL_IS_SET_UP and wanted.email_on):
        raise Trouble(
            "mail_off",
            _("Mails are turned off. Turn them on in your notice settings."),
            permanent=True,
        )
    if not wanted.mails_go_to:
        what = _(
            "%(email)s is not confirmed. Confirm it, or give another address in your notice "
            "settings.",
            email=wanted.unconfirmed,
        )
        raise Trouble("mail_off", what, permanent=True)
    return wanted.mails_go_to


def _code(wanted: NoticeSettings, notice: Notice) -> tuple[str, str]:
    """Return the subject and the body of the mail with a code.

    The text is fixed, because the receiver has not agreed to get mails.
    """
    ends_at = addresses.code_ends_at(wanted)
    if (
        not ends_at
        or wanted.unconfirmed != notice.data["email"]
        or wanted.code_sent_at != notice.raised_at
    ):
        raise Trouble(
            "mail_off",
            _("The code has expired, or a later address or code replaced it. Ask for a new code."),
            permanent=True,
        )
    body = _(
        "%(email)s wants to receive notices of certctrl, a server for certificates, at this "
        "address.\n\nIf that is right, confirm it with this code: %(code)s\n\nThe code is valid "
        "until %(ends_at)s. If you did not expect this mail, ignore it. Then no notices are sent "
        "here.",
        email=wanted.owner.email,
        code=addresses.code_of(wanted),
        ends_at=moments.for_people(ends_at),
    )
    return _("A code for notices of certctrl"), body


def quoting(notice: Notice) -> str:
    """Return the notice's text. The words of a CA or a provider become a quotation.

    They are the part `what` of the body, or of its data. The quotation has no links and at most
    `QUOTED` characters.
    """
    body = str(notice.body)
    what = part_of(notice.body, "what") or notice.data.get("what", "")
    if not what or what not in body:
        return body
    words = plain(" ".join(what.split()))
    words = words if len(words) <= QUOTED else words[: QUOTED - 1] + "\N{HORIZONTAL ELLIPSIS}"
    lines = "\n".join(f"> {line}" for line in textwrap.wrap(words, 76, break_long_words=False))
    before, _what, after = body.partition(what)
    return f"{before.rstrip()} {SAID}\n\n{lines}\n\n{after.lstrip()}"


def plain(words: str) -> str:
    """Return `words` without the parts that mail programs turn into links.

    These are schemes, `www.`, e-mail addresses, and paths after a host name.
    """
    for pattern, instead in LINKS:
        words = pattern.sub(instead, words)
    return words


def _digest(delivery: Delivery) -> tuple[str, str]:
    held = Notice.objects.filter(deliveries__digest=delivery).order_by("pk")
    count = held.count()
    lines = [f"{moments.for_people(each.raised_at)}  {each.subject}" for each in held[:LISTED]]
    if count > LISTED:
        more = count - LISTED
        lines.append(
            _("... and %(more)s more. All are in the list of notices in the API.", more=more)
        )
    begin = _(
        "More notices came in a day than your settings allow as single mails. The others are:"
    )
    subject = _("1 notice of certctrl")
    if count != 1:
        subject = _("%(count)s notices of certctrl", count=count)
    return subject, f"{begin}\n\n" + "\n".join(map(str, lines))


def _connection() -> Any:
    backend = (
        "notices.smtp.EmailBackend" if settings.EMAIL_BACKEND == settings.SMTP_BACKEND else None
    )
    connection: Any = mail.get_connection(
        backend, timeout=min(settings.EMAIL_TIMEOUT, clock.time_left())
    )
    if hasattr(connection, "create_session"):  # anymail's backends for HTTP APIs
        connection.session = outgoing.session()
    return connection


def _close(connection: Any) -> None:
    """Close the connection and only log a failure, because the server has accepted the mail."""
    try:
        connection.close()
    except (smtplib.SMTPException, OSError) as exc:
        logger.info("mail.close_failed", error=type(exc).__name__)


def _trouble(exc: Exception) -> Trouble:
    if isinstance(exc, AnymailConfigurationError | ImportError):
        what = _(
            "The settings of the mail service are incomplete or wrong. The operator must check "
            "EMAIL_BACKEND and ANYMAIL."
        )
        return Trouble("mail_failed", what)
    if isinstance(exc.__cause__, requests.RequestException):
        what = _("The mail service could not be reached. %(why)s", why=exc.__cause__)
        return Trouble("mail_unreachable", what)
    if isinstance(exc, AnymailError):
        status = getattr(exc, "status_code", None)
        why = status or type(exc).__name__
        what = _("The mail service refused the mail (%(why)s).", why=why)
        if status in (401, 403):
            what = _(
                "The mail service refused the mail (%(why)s). The operator must check ANYMAIL.",
                why=why,
            )
        return Trouble("mail_failed", what)
    return smtp.trouble_of(exc)
