"""Find old answers that a CA's resolver may still have for a changed record set.

An apex and its wildcard have the same challenge name. So do two attempts in a row. A resolver that
asked for the TXT records of the name keeps the answer for its TTL. A record that was added later is
missing in this answer. The CA then says "incorrect TXT record".
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import QuerySet

from authorities.models import AcmeAccount
from certctrl import clock
from certctrl.sentences import sentence as _
from certctrl.statements import Parameter, select
from dnsproviders.models import TxtRecord
from dnsproviders.propagation import Look
from issuance.models import Authorization, Issuance

# Longer TTLs count as this, because resolvers of CAs do not keep an answer for a day.
LONGEST = timedelta(hours=1)
READ = (
    *("issuance__state", "issuance__state_since"),
    *("record__name", "record__value", "record__credential__ttl"),
)
LONGEST_VALIDATION = timedelta(hours=1)  # from our answer to a challenge to the CA's last lookup


class Kept(NamedTuple):
    """The time until which the CA's resolver may give an old answer for a name.

    `ttl` is the TTL that causes this, in seconds.
    """

    until: datetime
    name: str
    ttl: int

    @property
    def what(self) -> str:
        return _(
            "The CA checked %(name)s for another challenge, and its resolver may keep what it saw "
            "for %(ttl)s s, the TTL of the records: the challenge is answered at %(until)s UTC.",
            name=self.name,
            ttl=self.ttl,
            until=f"{self.until:%H:%M:%S}",
        )


def kept(
    issuance: Issuance, records: Sequence[TxtRecord], looks: Mapping[int, Look]
) -> Kept | None:
    """Return the old answer that the attempt's CA may keep longest, or None.

    Only challenges with other values at the same names leave old answers. Return None if the CA
    checked none of them within their TTL.

    Call this when every server shows the records. From then on, a resolver that asks gets them.
    Challenges of the attempt itself do not count, because they are answered later, all together.
    """
    now = clock.now()
    ttls: dict[str, int] = {}
    for record in records:
        ttls[record.name] = max(ttls.get(record.name, 0), record.ttl, looks[record.pk].ttl)
    wanted = {(record.name, record.value) for record in records}
    after = now - LONGEST - LONGEST_VALIDATION
    known = {"issuance": issuance.pk, "account": issuance.account_id, "after": after}
    answered = (
        _answered_at(name=next(iter(ttls)), **known)
        if len(ttls) == 1
        else _answered(**known).filter(record__name__in=ttls)
    )
    found = [
        _kept(each, ttls, now)
        for each in answered
        if each.record and _pair(each.record) not in wanted
    ]
    lasting = [each for each in found if each.until > now]
    return max(lasting, default=None)


def _answered(issuance: Any, account: Any, after: Any) -> QuerySet[Authorization]:
    """Return what other attempts answered after `after`, at the CA of the account."""
    directory = AcmeAccount.objects.filter(pk=account).values("directory_url")
    answered = Authorization.objects.filter(
        answered_at__gt=after, issuance__account__directory_url__in=directory
    )
    others = answered.exclude(issuance=issuance).select_related("record__credential", "issuance")
    return others.only(*READ)


@select
def _answered_at(
    name: Parameter, issuance: Parameter, account: Parameter, after: Parameter
) -> QuerySet[Authorization]:
    return _answered(issuance, account, after).filter(record__name=name)


def _pair(record: TxtRecord) -> tuple[str, str]:
    return record.name, record.value


def _kept(answered: Authorization, ttls: Mapping[str, int], now: datetime) -> Kept:
    record, issuance = answered.record, answered.issuance
    assert record
    ttl = min(max(ttls[record.name], record.ttl), int(LONGEST.total_seconds()))
    checked_at = now if issuance.state == Issuance.State.PROPAGATED else issuance.state_since
    return Kept(checked_at + timedelta(seconds=ttl), record.name, ttl)
