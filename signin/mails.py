"""The mails with a code, in the language of the request, and the turn that sends one."""

from datetime import timedelta

import structlog
from django.conf import settings
from django.core.mail import EmailMessage
from django.utils import translation
from django.utils.translation import gettext as _

from accounts.models import User
from certctrl import clock, lanes
from certctrl.turns import LostTurn, Trouble, Wait
from notices import delivery, mail, moments
from signin import mailedcodes
from signin.models import MailedCode

log = structlog.get_logger()
Purpose = MailedCode.Purpose
RETRIES = (5, 30, 120, 300, 600, 900)  # seconds; a code is valid for an hour


def send(row_id: int) -> None:
    """Send the mail, if it is due and if the address may have one.

    Raise Wait while another worker holds the row. Raise LostTurn if the turn took too long.
    """
    with MailedCode.objects.select_related("user").turn(row_id) as row:
        message = message_of(row)
        if message is None:
            return row.give_back(None)
        try:
            with lanes.enter(delivery.MAIL):
                mail.hand_over(message)
        except (Wait, LostTurn):
            raise
        except Trouble as trouble:
            stumbles = row.stumbles + 1
            log.warning("code.not_sent", code=trouble.code, row=row.pk)
            if trouble.permanent or stumbles > len(RETRIES):
                return row.give_back(None)
            return row.rest(timedelta(seconds=RETRIES[stumbles - 1]), stumbles=stumbles)
        log.info("code.sent", row=row.pk, purpose=row.purpose)
        return row.give_back(None, sent_at=clock.now())


def message_of(row: MailedCode) -> EmailMessage | None:
    """Return the mail, or None if this address gets none."""
    if row.used_at or row.ends_at <= clock.now():
        return None
    user = User.objects.named(row.email).first()
    with translation.override(row.language or settings.LANGUAGE_CODE):
        text = _text(row, user)
        if text is None:
            return None
        subject, body = text
        footer = "\n\n-- \n" + _("certctrl. It issues and renews certificates.") + "\n"
    to = user.email if user and row.purpose == Purpose.RESET else row.email
    return mail.message(row.uuid, subject, body + footer, to)


def _text(row: MailedCode, user: User | None) -> tuple[str, str] | None:
    """Return the subject and the body, or None if this address gets no mail."""
    ignore = _("If you did not expect this mail, ignore it. Then nothing changes.")
    ends = _("The code is valid until %(moment)s.") % {"moment": moments.for_people(row.ends_at)}
    code = f"    {mailedcodes.code_of(row)}"
    match row.purpose:
        case Purpose.REGISTER if user:
            subject = _("You have an account already")
            said = _(
                "Somebody wants to register this address at %(page)s. It has an account already. "
                "Sign in there, or reset the password if you forgot it."
            ) % {"page": row.page}
            return subject, f"{said}\n\n{ignore}"
        case Purpose.REGISTER if _may_register(row):
            said = _("This code registers your address at %(page)s:") % {"page": row.page}
            return _("Your code for certctrl"), f"{said}\n\n{code}\n\n{ends} {ignore}"
        case Purpose.RESET if user and user.is_active and user.has_usable_password():
            said = _("This code sets a new password at %(page)s:") % {"page": row.page}
            return _("Your code for certctrl"), f"{said}\n\n{code}\n\n{ends} {ignore}"
        case Purpose.CHANGE if row.user and not user:
            said = _("This code makes this address that of the account %(email)s at %(page)s:") % {
                "email": row.user.email,
                "page": row.page,
            }
            return _("Your code for certctrl"), f"{said}\n\n{code}\n\n{ends} {ignore}"
        case Purpose.INVITE if row.user and not user:
            said = _(
                "%(email)s invites you to certctrl. Register with this address at %(page)s within "
                "a week."
            ) % {"email": row.user.email, "page": row.page}
            return _("An invitation to certctrl"), f"{said}\n\n{ignore}"
    return None


def _may_register(row: MailedCode) -> bool:
    if settings.REGISTRATION == "invitation":
        return mailedcodes.is_invited(row.email)
    return bool(settings.REGISTRATION == "open")
