"""Sends signed heads of the audit log to the users that AUDIT_HEADS_TO names."""

import json

import structlog
from django.conf import settings

from accounts.models import User
from certctrl import clock
from certctrl.sentences import sentence as _
from keystore import heads
from notices.models import Notice
from notices.raising import raise_once

logger = structlog.get_logger()


def send() -> None:
    """Raise a notice with the current head for each receiver, once in AUDIT_HEADS_EVERY.

    A head is sent even if the log has not changed, so that a receiver notices when none comes.
    """
    period = int(clock.now().timestamp() // settings.AUDIT_HEADS_EVERY)
    key = f"audit_head:{settings.AUDIT_HEADS_EVERY:.0f}:{period}"
    for email in settings.AUDIT_HEADS_TO:
        owner = User.objects.named(email).first()
        if owner is None:
            logger.warning("audit.head_not_sent", email=email)
        elif not Notice.objects.filter(owner=owner, dedupe_key=key).exists():
            _raise(owner, key)


def _raise(owner: User, key: str) -> None:
    head = heads.sign()
    if head is None:
        return
    subject = _(
        "Head of the audit log: event %(place)s, %(hash)s", place=head["place"], hash=head["hash"]
    )
    body = _(
        "The audit log of certctrl had %(place)s events at %(at)s. Keep this notice "
        "where the operator of the server cannot change it.\n\nTo see whether the log "
        "still has the same events, save this notice as a file and run: manage.py audit "
        "verify --head FILE\n\n%(head)s",
        place=head["place"],
        at=head["at"],
        head=json.dumps(head),
    )
    raise_once(owner, Notice.Kind.AUDIT_HEAD, key, subject, body, {"head": head})
