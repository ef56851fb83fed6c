"""An event becomes a notice and its deliveries, in the transaction of whoever saw it. Nothing is sent here."""

import secrets
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.db import transaction

from accounts.models import User
from certctrl import clock
from notices.models import Delivery, Notice, active_webhooks, settings_of

Kind = Notice.Kind


def raise_once(
    owner: User,
    kind: str,
    dedupe_key: str,
    subject: str,
    body: str,
    data: Mapping[str, Any] | None = None,
) -> bool:
    """Tell the owner of an event, once for each `dedupe_key`; False when it was told before.

    Call it in the transaction of what happened: both are written, or neither. `subject` is one line and `body` plain
    text, for people; `data` is JSON for programs, its moments in ISO 8601. A sweep sends what this writes.
    """
    return _raise(owner, kind, dedupe_key, subject, body, data) is not None


def raise_test(owner: User) -> Notice:
    """A notice to try the ways that there are: by mail, and to every webhook, whatever is muted."""
    key = f"test:{secrets.token_hex(8)}"
    body = "This is a test, as you asked for. Notices of your certificates reach you here."
    notice = _raise(owner, Kind.TEST, key, "A test of your notices", body, None)
    assert notice, "the key is drawn anew each time"
    return notice


def raise_code(owner: User, email: str) -> Notice:
    """A mail with a code goes to the address, and nothing anywhere else."""
    key = f"confirm_address:{secrets.token_hex(8)}"
    body = f"A code was mailed to {email}. Notices go there once it is confirmed."
    notice = _raise(owner, Kind.CONFIRM_ADDRESS, key, f"Confirm {email}", body, {"email": email})
    assert notice, "the key is drawn anew each time"
    return notice


@transaction.atomic
def _raise(
    owner: User, kind: str, key: str, subject: str, body: str, data: Mapping[str, Any] | None
) -> Notice | None:
    told = {"kind": kind, "subject": one_line(subject), "body": body, "data": dict(data or {})}
    # Two at once: the second waits here for the first one's commit, and finds its row.
    notice, is_new = Notice.objects.get_or_create(
        owner=owner, dedupe_key=key, defaults=told | {"raised_at": clock.now()}
    )
    if not is_new:
        return None
    Delivery.objects.bulk_create(_deliveries(notice))
    return notice


def one_line(text: str) -> str:
    """Fit for a header: without line breaks, at most 300 characters."""
    return " ".join(text.split())[:300]


def _deliveries(notice: Notice) -> list[Delivery]:
    """By the owner's settings of now; a test goes to every address, whatever is muted."""
    wanted, is_test = settings_of(notice.owner_id), notice.kind == Kind.TEST
    if notice.kind in wanted.muted and not is_test:
        return []
    common = {"owner_id": notice.owner_id, "notice": notice, "wake_at": notice.raised_at}
    if notice.kind == Kind.CONFIRM_ADDRESS:
        return [Delivery(channel=Delivery.Channel.EMAIL, **common)]
    mails = (
        [Delivery(channel=Delivery.Channel.EMAIL, **common)]
        if settings.MAIL_IS_SET_UP and wanted.email_on
        else []
    )
    posts = [
        Delivery(channel=Delivery.Channel.WEBHOOK, webhook=webhook, **common)
        for webhook in active_webhooks(notice.owner_id)
        if is_test or not webhook.kinds or notice.kind in webhook.kinds
    ]
    return mails + posts
