"""The mails about an account, in the language of its request or its user, and their turn."""

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
# Changes of an account. Their mails have no code.
CHANGES = (
    *(Purpose.PASSWORD, Purpose.ADDRESS),
    *(Purpose.FACTOR_ON, Purpose.FACTOR_OFF, Purpose.NEW_CODES),
)
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
    user = None if row.purpose in CHANGES else User.objects.named(row.email).first()
    with translation.override(row.language or settings.LANGUAGE_CODE):
        text = _text(row, user)
        if text is None:
            return None
        subject, body = text
        footer = "\n\n-- \n" + _("certctrl. It issues and renews certificates.") + "\n"
    to = user.email if user and row.purpose == Purpose.RESET else row.email
    if row.purpose in CHANGES:
        to = row.typed_email
    return mail.message(row.uuid, subject, body + footer, to)


def _text(row: MailedCode, user: User | None) -> tuple[str, str] | None:
    """Return the subject and the body, or None if this address gets no mail."""
    ignore = _("If you did not expect this mail, ignore it. Then nothing changes.")
    ends = _("The code is valid until %(moment)s.") % {"moment": moments.for_people(row.ends_at)}
    end = _("%(ends)s %(ignore)s") % {"ends": ends, "ignore": ignore}
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
            return _("Your code for certctrl"), f"{said}\n\n{code}\n\n{end}"
        case Purpose.RESET if user and user.is_active and user.has_usable_password():
            said = _("This code sets a new password at %(page)s:") % {"page": row.page}
            return _("Your code for certctrl"), f"{said}\n\n{code}\n\n{end}"
        case Purpose.CHANGE if row.user and not user:
            said = _("This code makes this address that of the account %(email)s at %(page)s:") % {
                "email": row.user.email,
                "page": row.page,
            }
            return _("Your code for certctrl"), f"{said}\n\n{code}\n\n{end}"
        case Purpose.INVITE if row.user and not user:
            said = _(
                "%(email)s invites you to certctrl. Register with this address at %(page)s within "
                "a week."
            ) % {"email": row.user.email, "page": row.page}
            return _("An invitation to certctrl"), f"{said}\n\n{ignore}"
        case purpose if purpose in CHANGES and row.user:
            return _of_change(row, row.user)
    return None


def _of_change(row: MailedCode, user: User) -> tuple[str, str]:
    """Return the subject and the body of a mail that says what was changed in an account."""
    match row.purpose:
        case Purpose.PASSWORD:
            subject = _("The password of your certctrl account was changed")
            said = _("The password of the account %(email)s was changed.")
        case Purpose.ADDRESS:
            subject = _("The address of your certctrl account was changed")
            said = _(
                "This address was that of a certctrl account. Now the account has the address "
                "%(email)s."
            )
        case Purpose.FACTOR_ON:
            subject = _("Your certctrl account has a second factor now")
            said = _("From now on, the account %(email)s signs in with a code of an app too.")
        case Purpose.FACTOR_OFF:
            subject = _("The second factor of your certctrl account was removed")
            said = _("From now on, the account %(email)s signs in without a second factor.")
        case _other:
            subject = _("Your certctrl account has new recovery codes")
            said = _("The account %(email)s has new recovery codes. The old ones count no more.")
    network = row.network.removesuffix("/32")
    facts = {"email": user.email, "page": row.page, "network": network}
    facts["moment"] = moments.for_people(row.created_at)
    when = _("It was changed on %(moment)s.")
    if row.network:
        when = _("It was changed on %(moment)s, from %(network)s.")
    if row.purpose == Purpose.ADDRESS:
        do = _(
            "If that was you, there is nothing to do. If not, write to the operator of this "
            "server at once. This address cannot reset the password any more."
        )
    elif row.page:
        do = _(
            "If that was you, there is nothing to do. If not, reset the password at %(page)s at "
            "once, which ends every session. Then write to the operator of this server."
        )
    else:
        do = _("An operator of this server did it. Write to them if you did not expect it.")
    return subject, "\n\n".join(text % facts for text in (said, when, do))


def _may_register(row: MailedCode) -> bool:
    if settings.REGISTRATION == "invitation":
        return mailedcodes.is_invited(row.email)
    return bool(settings.REGISTRATION == "open")
