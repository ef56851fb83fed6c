"""Turns an event into a notice and its deliveries, in the caller's transaction.

This module sends nothing.
"""

import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction

from accounts.models import User
from certctrl import clock
from certctrl.sentences import sentence as _
from certctrl.sentences import with_parts
from notices.models import Delivery, Notice, active_webhooks, settings_of

Kind = Notice.Kind
HALF_A_DAY = timedelta(hours=12)


def raise_once(
    owner: User,
    kind: str,
    dedupe_key: str,
    subject: str,
    body: str,
    data: Mapping[str, Any] | None = None,
) -> bool:
    """Notify the owner of an event, once for each `dedupe_key`. Return False if it exists already.

    Call this function in the transaction of the event, so that both are written or neither.
    `subject` is one line and `body` is plain text, both for people. `data` is JSON for programs,
    with times in ISO 8601. The sweep sends the deliveries later.
    """
    return _raise(owner, kind, dedupe_key, subject, body, data) is not None


def raise_test(owner: User) -> Notice:
    """Write a test notice for the owner's mail address and every webhook. Muting has no effect."""
    key = f"test:{secrets.token_hex(8)}"
    body = _("This is the test that you requested. Notices about your certificates arrive here.")
    notice = _raise(owner, Kind.TEST, key, _("A test of your notices"), body, None)
    assert notice, "the key is random"
    return notice


def raise_code(owner: User, email: str) -> Notice:
    """Write a notice that mails a code to `email`. It is not posted to webhooks."""
    key = f"confirm_address:{secrets.token_hex(8)}"
    body = _(
        "A code was mailed to %(email)s. Confirm the address with it to receive notices there.",
        email=email,
    )
    notice = _raise(
        owner,
        Kind.CONFIRM_ADDRESS,
        key,
        _("Confirm %(email)s", email=email),
        body,
        {"email": email},
    )
    assert notice, "the key is random"
    return notice


@transaction.atomic
def _raise(
    owner: User, kind: str, key: str, subject: str, body: str, data: Mapping[str, Any] | None
) -> Notice | None:
    told = {"kind": kind, "subject": one_line(subject), "body": body, "data": dict(data or {})}
    now = clock.now()
    # If two are raised at once, the second waits here for the first commit and finds its row.
    notice, is_new = Notice.objects.get_or_create(
        owner=owner, dedupe_key=key, defaults=told | {"raised_at": now, "last_raised_at": now}
    )
    if not is_new:
        # Pruning must not forget an event that goes on.
        if notice.last_raised_at < now - HALF_A_DAY:
            Notice.objects.filter(pk=notice.pk).update(last_raised_at=now)
        return None
    Delivery.objects.bulk_create(_deliveries(notice))
    return notice


def one_line(text: str) -> str:
    """Return `text` in a form for a header: without line breaks, at most 300 characters."""
    line = with_parts(text, lambda part: " ".join(part.split()))
    return line if len(line) <= 300 else line[:300]


def _deliveries(notice: Notice) -> list[Delivery]:
    """Return the deliveries of a notice by the owner's current settings.

    Muting, and the kinds that a webhook selects, have no effect on a test.
    """
    wanted = settings_of(notice.owner_id)
    is_test = notice.kind == Kind.TEST
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
