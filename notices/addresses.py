"""The addresses that mails go to, and the codes that confirm them.

An address from an owner's settings first gets a code by mail. Notices go there after the owner
confirmed the code. The e-mail address of a user needs no code, because the operator typed it. The
address that `make run` makes up needs a code.
"""

import hmac
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils.crypto import salted_hmac

from accounts import audit
from accounts.models import User
from certctrl import clock
from certctrl.errors import Conflict, Invalid, RateLimited
from certctrl.sentences import sentence as _
from certctrl.turns import A_DAY
from notices import raising
from notices.models import Notice, NoticeSettings

VALID_FOR = timedelta(days=1)  # mail servers may delay a mail for hours
TRIES = 5  # for each code
DIGITS = 8
CODES_A_DAY = 5  # for each owner, and for each address from all owners together
NOTHING_TO_CONFIRM = _("There is no address to confirm. Give another one in the settings.")


def change(owner: User, given: Mapping[str, Any]) -> NoticeSettings:
    """Change the owner's settings. Mail a code to a new address that is not confirmed.

    Raise RateLimited if too many codes were mailed today. Then nothing is changed.
    """
    with transaction.atomic():
        wanted = _locked(owner)
        before = wanted.email
        for name, value in given.items():
            setattr(wanted, name, value)
        wanted.save()
        if wanted.email.lower() != before.lower():
            wanted.forget_code()
            if wanted.email and wanted.unconfirmed and settings.MAIL_IS_SET_UP:
                _mail_code(wanted)
        audit.note(owner, "notices.changed", f"user:{owner.pk}", **given)
    return wanted


def send_code(owner: User) -> NoticeSettings:
    """Mail another code to the address that is not confirmed.

    Raise Conflict if there is no such address, or if the server sends no mails. Raise RateLimited
    if too many codes were mailed today.
    """
    with transaction.atomic():
        wanted = _locked(owner)
        if not wanted.unconfirmed:
            raise Conflict(NOTHING_TO_CONFIRM)
        if not settings.MAIL_IS_SET_UP:
            raise Conflict(_("This server sends no mails. The operator must set EMAIL_HOST first."))
        _mail_code(wanted)
        audit.note(owner, "notices.code_sent", f"user:{owner.pk}", email=wanted.unconfirmed)
    return wanted


def confirm(owner: User, code: str) -> NoticeSettings:
    """Confirm the address with its code. Notices go there from now on.

    Raise Invalid if the code is wrong, expired, or was tried too often. Raise Conflict if there is
    no address to confirm.
    """
    with transaction.atomic():
        wanted = _locked(owner)
        refused = _refusal(wanted, code)
        if not refused:
            wanted.confirmed_email = wanted.unconfirmed
            if wanted.confirmed_email.lower() == wanted.made_up_email.lower():
                wanted.made_up_email = ""
            wanted.forget_code()
            audit.note(
                owner, "notices.address_confirmed", f"user:{owner.pk}", email=wanted.confirmed_email
            )
        wanted.save()  # a wrong code counts as a try too
    if refused:
        raise refused
    return wanted


def code_of(wanted: NoticeSettings) -> str:
    """Return the code for the address that is not confirmed.

    The code is not stored. It is computed with SECRET_KEY.
    """
    said = f"{wanted.owner_id} {wanted.code_seed} {wanted.unconfirmed.lower()}"
    digest = salted_hmac("notices.addresses", said, algorithm="sha256").digest()
    return str(int.from_bytes(digest[:8]) % 10**DIGITS).zfill(DIGITS)


def code_ends_at(wanted: NoticeSettings) -> datetime | None:
    """Return when the code expires, or None if there is no valid code."""
    if not wanted.code_sent_at or not wanted.code_seed or not wanted.unconfirmed:
        return None
    ends_at: datetime = wanted.code_sent_at + VALID_FOR
    return ends_at if ends_at > clock.now() else None


def caution_of(wanted: NoticeSettings) -> str:
    """Return what the reader cannot change with these settings, or an empty string."""
    address = wanted.unconfirmed
    limit = settings.MAILS_A_DAY
    if address and not settings.MAIL_IS_SET_UP:
        return _(
            "%(address)s is not confirmed, because this server sends no mails.", address=address
        )
    if address or wanted.digest_over <= limit:
        return ""
    return _(
        "This server mails at most %(limit)s notices a day to each owner. Further "
        "notices go into the digest.",
        limit=limit,
    )


def note_of(wanted: NoticeSettings) -> str:
    """Return a sentence for a program that reads the settings, or an empty string.

    It names calls of the API.
    """
    caution = caution_of(wanted)
    address = wanted.unconfirmed
    if caution or not address:
        return caution
    meanwhile = (
        _("notices go to %(address)s", address=wanted.mails_go_to)
        if wanted.mails_go_to
        else _("no notices are mailed")
    )
    if not code_ends_at(wanted):
        return _(
            "%(address)s is not confirmed, and %(meanwhile)s. POST "
            "…/notice-settings/code mails a code to it.",
            address=address,
            meanwhile=meanwhile,
        )
    return _(
        "A code was mailed to %(address)s. Until it is confirmed with POST "
        "…/notice-settings/confirm, %(meanwhile)s.",
        address=address,
        meanwhile=meanwhile,
    )


def _locked(owner: User) -> NoticeSettings:
    NoticeSettings.objects.get_or_create(owner=owner)
    return (
        NoticeSettings.objects.select_related("owner")
        .select_for_update(of=("self",))
        .get(owner=owner)
    )


def _refusal(wanted: NoticeSettings, code: str) -> Exception | None:
    if not wanted.unconfirmed:
        return Conflict(NOTHING_TO_CONFIRM)
    another = _("Ask for a new code.")
    if not code_ends_at(wanted):
        return Invalid(
            _(
                "There is no valid code for %(unconfirmed)s. %(another)s",
                unconfirmed=wanted.unconfirmed,
                another=another,
            ),
            field="code",
        )
    if wanted.code_tries >= TRIES:
        return Invalid(
            _("%(tries)s wrong codes were given. %(another)s", tries=TRIES, another=another),
            field="code",
        )
    wanted.code_tries += 1
    if hmac.compare_digest(code_of(wanted).encode(), "".join(code.split()).encode()):
        return None
    left = TRIES - wanted.code_tries
    tries = (
        _("You have %(left)s more tries.", left=left)
        if left
        else _("%(tries)s wrong codes were given. %(another)s", tries=TRIES, another=another)
    )
    return Invalid(_("The code is wrong. %(tries)s", tries=tries), field="code")


def _mail_code(wanted: NoticeSettings) -> None:
    now = clock.now()
    address = wanted.unconfirmed
    today = Notice.objects.filter(
        kind=Notice.Kind.CONFIRM_ADDRESS, raised_at__gt=now - A_DAY
    ).order_by("-raised_at")
    for counted in (today.filter(owner=wanted.owner), today.filter(data__email__iexact=address)):
        sent = list(counted.values_list("raised_at", flat=True)[:CODES_A_DAY])
        if len(sent) == CODES_A_DAY:
            pause = max(1, int((sent[-1] + A_DAY - now).total_seconds()))
            what = _(
                "%(codes_a_day)s codes were mailed within a day. The next one is "
                "possible in %(pause)s seconds.",
                codes_a_day=CODES_A_DAY,
                pause=pause,
            )
            raise RateLimited(what, retry_after=pause)
    wanted.code_seed = secrets.token_hex(16)
    wanted.code_tries = 0
    wanted.code_sent_at = raising.raise_code(wanted.owner, address).raised_at
    wanted.save()
