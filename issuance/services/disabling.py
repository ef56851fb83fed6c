"""Disable a DNS provider for everybody on this server, and enable it again.

While it is disabled, nobody makes a credential for it or starts an attempt that needs it. Open
attempts wait. TXT records are still removed.
"""

from django.db import transaction

from accounts import audit
from accounts.models import User
from certctrl import clock
from certctrl.errors import Conflict
from certctrl.sentences import sentence as _
from dnsproviders.models import DisabledProvider, DnsCredential
from issuance.models import Issuance

State = Issuance.State


def disable_provider(provider: str, by: User, why: str) -> DisabledProvider:
    """Disable the provider with this id. Every owner may read `why`.

    One that is disabled already keeps its row.
    """
    with transaction.atomic():
        facts = {"disabled_at": clock.now(), "by": by, "why": why}
        row, made = DisabledProvider.objects.get_or_create(provider=provider, defaults=facts)
        if made:
            audit.note(by, "dns_provider.disabled", f"dns_provider:{provider}", why=why)
    return row


def enable_provider(row: DisabledProvider, by: User) -> None:
    """Enable the provider again, and wake the attempts that wait for it. Raise Conflict if it is.

    An attempt in its turn may have read that it is disabled. It looks again when its turn has
    ended.
    """
    with transaction.atomic():
        deleted, _each = DisabledProvider.objects.filter(pk=row.pk).delete()
        if not deleted:
            raise Conflict(
                _("The DNS provider %(provider)s is enabled already.", provider=row.provider)
            )
        audit.note(by, "dns_provider.enabled", f"dns_provider:{row.provider}")
        now = clock.now()
        waits = Issuance.objects.open().filter(
            credential__in=DnsCredential.objects.filter(provider=row.provider),
            state__in=(State.QUEUED, State.ORDERED),
            holder="",
        )
        waits.filter(wake_at__gt=now).update(wake_at=now, queued_at=None)
