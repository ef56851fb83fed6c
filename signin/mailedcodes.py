"""Codes by mail: they register a user, set a new password, or change an address.

The mails that say what was changed in an account go the same way.

A code has 80 bits, which nobody guesses. So tries are not counted, and a stranger who types wrong
codes uses up nothing of the owner.

Every request writes one row, whether there is a user with this address or not. The worker that
sends the mail looks for the user. So neither the response nor its time says who has an account.
"""

import base64
import hmac
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import translation
from django.utils.crypto import salted_hmac

from accounts import audit
from accounts.models import User, canonical_email
from certctrl import clock, errors, retention
from certctrl.sentences import sentence as _
from certctrl.turns import A_DAY, TurnsQuerySet
from notices.models import settings_of
from signin.models import MailedCode

Purpose = MailedCode.Purpose
AN_HOUR = timedelta(hours=1)
VALID_FOR = AN_HOUR
INVITED_FOR = timedelta(days=7)
KEPT_FOR = timedelta(days=1)  # after the end, because the rows are counted for a day
# Each purpose is counted for itself, so that registrations of an address use up none of its resets.
MAILS_A_DAY = 5  # to one address, asked for by one network
MAILS_AN_HOUR = 8  # to one address, asked for by all networks
LONGEST = 254  # characters of an address in its canonical form
MAILS_OF_NETWORK = 30  # in an hour, of one network


def request_code(
    request: HttpRequest, purpose: str, email: str, user: User | None = None, **typed: Any
) -> MailedCode:
    """Write the wish for a code. A worker mails it, if this address may have one.

    Raise Conflict if this server sends no mails. Raise RateLimited after too many mails to the
    address, or for the network. The limits count rows, which unknown addresses have too.

    One network cannot use up what others may ask for. The limit of all networks lasts no longer
    than a code. So a person whose address reached it has codes in the mailbox that still count.
    """
    if not settings.MAIL_IS_SET_UP:
        raise errors.Conflict(_("This server sends no mails. Ask the operator to help you."))
    email = canonical_email(email)
    if len(email) > LONGEST:
        raise errors.Invalid(_("This address is too long. Type another one."), field="email")
    network = network_of(request)
    now = clock.now()
    asked = MailedCode.objects.filter(purpose=purpose, email=email)
    _refuse_more(asked.filter(network=network), MAILS_A_DAY, A_DAY)
    _refuse_more(asked, MAILS_AN_HOUR, AN_HOUR)
    if network:
        _refuse_more(MailedCode.objects.filter(network=network), MAILS_OF_NETWORK, AN_HOUR)
    valid_for = INVITED_FOR if purpose == Purpose.INVITE else VALID_FOR
    return MailedCode.objects.create(
        purpose=purpose,
        email=email,
        user=user,
        network=network,
        language=translation.get_language_from_request(request),
        page=request.build_absolute_uri(reverse("sign-in")),
        ends_at=now + valid_for,
        wake_at=now,
        **typed,
    )


def tell(user: User, purpose: str, request: HttpRequest | None = None, email: str = "") -> None:
    """Mail to the user, or to `email`, what was changed in the account.

    Call it in the transaction of the change. Nothing is sent if this server sends no mails, or if
    `make run` made the address up. Without a request, an operator made the change.
    """
    if not settings.MAIL_IS_SET_UP:
        return
    to = email or user.email
    if canonical_email(to) == canonical_email(settings_of(user.pk).made_up_email):
        return
    now = clock.now()
    MailedCode.objects.create(
        purpose=purpose,
        email=canonical_email(to)[:LONGEST],
        typed_email=to,
        user=user,
        network=network_of(request) if request else "",
        language=user.language,
        page=request.build_absolute_uri(reverse("sign-in")) if request else "",
        ends_at=now + A_DAY,
        wake_at=now,
    )


def network_of(request: HttpRequest) -> str:
    ip = audit.ip_of(request)
    return audit.network_of(ip) if ip else ""


def _refuse_more(rows: QuerySet[MailedCode], most: int, within: timedelta) -> None:
    now = clock.now()
    recent = rows.filter(created_at__gt=now - within).order_by("-pk")
    sent = list(recent.values_list("created_at", flat=True)[:most])
    if len(sent) == most:
        pause = max(1, int((sent[-1] + within - now).total_seconds()))
        raise errors.RateLimited(
            _("Too many mails were requested. Try again in %(pause)s seconds.", pause=pause),
            retry_after=pause,
        )


def code_of(row: MailedCode) -> str:
    """Return the code: four groups of letters and digits.

    It is not stored, but computed with SECRET_KEY.
    """
    said = f"{row.uuid} {row.purpose} {row.email} {row.user_id}"
    digest = salted_hmac("signin.mailedcodes", said, algorithm="sha256").digest()
    return grouped(digest[:10])


def grouped(raw: bytes) -> str:
    """Return 80 bits as four groups of letters and digits."""
    text = base64.b32encode(raw).decode().lower()
    return "-".join(text[at : at + 4] for at in range(0, 16, 4))


def find(
    purpose: str, email: str, code: str, user: User | None = None, network: str | None = None
) -> MailedCode:
    """Return the row of this code. `spend` ends it.

    With `network`, only the codes that were requested there count.
    Raise Invalid for a code that is wrong or over. Both read the same, and so does an address that
    nobody asked a code for.
    """
    rows = list(open_codes(purpose, email, user, network).order_by("-pk"))
    typed = plain(code)
    # The comparison is made for an unknown address too.
    compared = rows or [MailedCode(purpose=purpose, email=email)]
    found = [each for each in compared if hmac.compare_digest(plain(code_of(each)), typed)]
    if not rows or not found:
        raise _wrong()
    return found[0]


def plain(code: str) -> bytes:
    """Return the letters and digits of a code, however a person typed it."""
    return "".join(each for each in code.lower() if each.isalnum()).encode()


def _wrong() -> errors.Invalid:
    return errors.Invalid(
        _(
            "The code is wrong, or it is over. A code is valid for an hour. Check it, or request "
            "another one."
        ),
        field="verify_code",
    )


def spend(row: MailedCode) -> None:
    """End all codes of the purpose, the address and the user of this row.

    Raise Invalid if another request has ended them meanwhile.
    """
    rows = open_codes(row.purpose, row.email).filter(user=row.user_id)
    ended: dict[str, Any] = {"used_at": clock.now(), "wake_at": None, "password": ""}
    if not rows.filter(pk=row.pk).update(**ended):
        raise _wrong()
    rows.update(**ended)


def open_codes(
    purpose: str, email: str, user: User | None = None, network: str | None = None
) -> TurnsQuerySet[MailedCode]:
    """Return the rows whose code counts."""
    rows = MailedCode.objects.filter(
        purpose=purpose, email=canonical_email(email), used_at=None, ends_at__gt=clock.now()
    )
    if network is not None:
        rows = rows.filter(network=network)
    return rows.filter(user=user) if user else rows


def invite(request: HttpRequest, inviting: User, email: str) -> None:
    """Mail an invitation. Its address may register for a week, if REGISTRATION allows it."""
    if settings.REGISTRATION == "closed":
        raise errors.Conflict(
            _("Registration is closed. Set REGISTRATION to invitation, then invite people.")
        )
    with transaction.atomic():
        request_code(request, Purpose.INVITE, email, inviting)
        audit.note(inviting, "user.invited", f"user:{inviting.pk}", email=canonical_email(email))


def is_invited(email: str) -> bool:
    return MailedCode.objects.filter(
        purpose=Purpose.INVITE, email=canonical_email(email), ends_at__gt=clock.now()
    ).exists()


def prune() -> None:
    """Delete the rows that are over."""
    retention.delete(MailedCode.objects.filter(ends_at__lt=clock.now() - KEPT_FOR))
