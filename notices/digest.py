"""The daily digest: who got as many mails as they want in a day is told the rest in one mail a day."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from django.conf import settings

from certctrl import clock
from notices.models import Delivery, Notice, NoticeSettings

A_DAY = timedelta(days=1)
GATHER = timedelta(
    hours=1
)  # what goes wrong comes in crowds: the first digest waits for the rest of it


def goes_out(mail: Delivery) -> bool:
    """Whether this mail, which is held, is sent now. False: it is one too many today, and waits for the digest.

    Decided once, by the mails that began in the last 24 hours, under the lock of the owner's settings: two workers do
    not both send the twentieth. What is pressing is counted by itself. A digest that goes out collects no more.
    """
    if mail.begun_at:
        return True
    with _alone(mail) as wanted:
        now = clock.now()
        if _mails_since(mail, now - A_DAY) >= _most(mail, wanted):
            mail.release(None, digest=_collecting(mail.owner_id, now))
            return False
        mail.write(begun_at=now)
    return True


@contextmanager
def _alone(mail: Delivery) -> Iterator[NoticeSettings]:
    """A transaction in which nobody else decides about a mail of this owner."""
    NoticeSettings.objects.get_or_create(owner_id=mail.owner_id)
    with mail.fence():
        yield NoticeSettings.objects.select_for_update().get(owner=mail.owner_id)


def _most(mail: Delivery, wanted: NoticeSettings) -> float:
    """How many mails may have begun in a day before this one: as many as the owner wants, and the operator allows. A
    test is held by the operator's number alone; a digest and a code have limits of their own."""
    if mail.notice is None or mail.notice.kind == Notice.Kind.CONFIRM_ADDRESS:
        return math.inf
    most: int = settings.MAILS_A_DAY
    return most if mail.notice.kind == Notice.Kind.TEST else min(most, wanted.digest_over)


def _mails_since(mail: Delivery, since: datetime) -> int:
    """How many of its sort began; what is pressing counts among the others too."""
    begun = Delivery.objects.filter(owner=mail.owner_id, begun_at__gt=since, notice__isnull=False)
    is_pressing = mail.notice is not None and mail.notice.kind in Notice.PRESSING
    return begun.filter(notice__kind__in=Notice.PRESSING).count() if is_pressing else begun.count()


def _collecting(owner_id: int, now: datetime) -> Delivery:
    """The digest that collects what is held now: due in an hour, and a day after the one before."""
    digests = Delivery.objects.filter(owner=owner_id, notice=None)
    collecting = digests.filter(begun_at=None).first()
    if collecting:
        return collecting
    last = digests.order_by("-begun_at").values_list("begun_at", flat=True).first()
    due_at = max(now + GATHER, last + A_DAY) if last else now + GATHER
    return Delivery.objects.create(
        owner_id=owner_id, channel=Delivery.Channel.EMAIL, wake_at=due_at
    )
