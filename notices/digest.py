"""The daily digest: one mail a day with the notices above an owner's limit of mails."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from django.conf import settings

from certctrl import clock
from certctrl.turns import A_DAY
from notices.models import Delivery, Notice, NoticeSettings

# Notices often come many at once. The first digest waits for the rest of them.
GATHER = timedelta(hours=1)


def goes_out(mail: Delivery) -> bool:
    """Return whether to send this mail now. Return False if it waits for the digest.

    The worker must hold the mail's turn. The decision is made once for each mail. It counts the
    mails that began in the last 24 hours. The owner's settings are locked, so that two workers do
    not both send the last allowed mail. Pressing notices have a count of their own. A digest that
    is sent now collects no more mails.
    """
    if mail.begun_at:
        return True
    with _alone(mail) as wanted:
        now = clock.now()
        if _mails_since(mail, now - A_DAY) >= _most(mail, wanted):
            mail.give_back(None, digest=_collecting(mail.owner_id, now))
            return False
        mail.write(begun_at=now)
    return True


@contextmanager
def _alone(mail: Delivery) -> Iterator[NoticeSettings]:
    """Open a transaction that locks the owner's settings. Other workers wait to decide."""
    NoticeSettings.objects.get_or_create(owner_id=mail.owner_id)
    with mail.fence():
        yield NoticeSettings.objects.select_for_update().get(owner=mail.owner_id)


def _most(mail: Delivery, wanted: NoticeSettings) -> float:
    """Return how many mails may begin in a day before this mail is held.

    Both the owner's and the operator's number limit a notice. For a test only the operator's
    number counts. A digest and a code have limits of their own.
    """
    if mail.notice is None or mail.notice.kind == Notice.Kind.CONFIRM_ADDRESS:
        return math.inf
    most: int = settings.MAILS_A_DAY
    return most if mail.notice.kind == Notice.Kind.TEST else min(most, wanted.digest_over)


def _mails_since(mail: Delivery, since: datetime) -> int:
    """Return how many mails of this owner began after `since`.

    For a pressing mail only pressing ones count. For other mails, pressing ones count too.
    """
    begun = Delivery.objects.filter(owner=mail.owner_id, begun_at__gt=since, notice__isnull=False)
    is_pressing = mail.notice is not None and mail.notice.kind in Notice.PRESSING
    return begun.filter(notice__kind__in=Notice.PRESSING).count() if is_pressing else begun.count()


def _collecting(owner_id: int, now: datetime) -> Delivery:
    """Return the digest that collects mails now.

    A new digest is due in `GATHER`, but at the earliest a day after the digest before it.
    """
    digests = Delivery.objects.filter(owner=owner_id, notice=None)
    collecting = digests.filter(begun_at=None).first()
    if collecting:
        return collecting
    last = digests.order_by("-begun_at").values_list("begun_at", flat=True).first()
    due_at = max(now + GATHER, last + A_DAY) if last else now + GATHER
    return Delivery.objects.create(
        owner_id=owner_id, channel=Delivery.Channel.EMAIL, wake_at=due_at
    )
