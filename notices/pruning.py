"""Delete old notices with their deliveries, and old digests."""

from django.conf import settings
from django.db.models import Exists, OuterRef, Q

from certctrl import retention
from notices.models import Delivery, Notice


def prune() -> None:
    """Delete the notices whose event is over, and the digests that no longer list a notice.

    A notice with a delivery that is not sent stays, also while a digest holds it. So does the
    notice of an event that is raised again and again, because such an event raises one notice.
    KEEP_NOTICES says how long others are kept.
    """
    before = retention.before(settings.KEEP_NOTICES)
    if before:
        unsent = Delivery.objects.filter(notice=OuterRef("pk"), sent_at=None, given_up_at=None)
        retention.delete(Notice.objects.filter(~Exists(unsent), last_raised_at__lt=before))
        over = Q(sent_at__lt=before) | Q(given_up_at__lt=before)
        retention.delete(Delivery.objects.filter(over, notice=None, held=None))
