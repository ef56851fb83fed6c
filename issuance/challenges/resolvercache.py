"""What a CA's resolver may still have of a record set that has changed since.

An apex and its wildcard share a name, as do two attempts in a row. Whoever asked for the TXT records of that name keeps
the answer for its TTL, and a record that was added meanwhile is not in it: the CA then says "incorrect TXT record".
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from authorities.models import AcmeAccount
from certctrl import clock
from dnsproviders.models import TxtRecord
from dnsproviders.propagation import Look
from issuance.models import Authorization, Issuance

# A TTL of a day is not waited out: resolvers of CAs keep no answer for that long.
LONGEST = timedelta(hours=1)
LONGEST_LOOKING = timedelta(hours=1)  # from the answer to a challenge to the last look of its CA


class Kept(NamedTuple):
    """Until when the CA's resolver may give an old answer for a name, and the TTL that says so."""

    until: datetime
    name: str
    ttl: int

    @property
    def what(self) -> str:
        return (
            f"The CA looked at {self.name} for another challenge, and its resolver may keep what it saw for"
            f" {self.ttl} s, the TTL of the records: the challenge is answered at {self.until:%H:%M:%S} UTC."
        )


def kept(
    issuance: Issuance, records: Sequence[TxtRecord], looks: Mapping[int, Look]
) -> Kept | None:
    """The longest that the attempt's CA may have, from challenges of other values at the same names; None where it
    looked at none of them within their TTL.

    To be asked once every server shows the records: from then on a resolver that asks gets them, too. The challenges of
    the attempt itself are answered later, all together.
    """
    now = clock.now()
    ttls: dict[str, int] = {}
    for record in records:
        ttls[record.name] = max(ttls.get(record.name, 0), record.ttl, looks[record.pk].ttl)
    wanted = {(record.name, record.value) for record in records}
    directory = AcmeAccount.objects.filter(pk=issuance.account_id).values("directory_url")
    answered = (
        Authorization.objects.filter(
            record__name__in=ttls,
            answered_at__gt=now - LONGEST - LONGEST_LOOKING,
            issuance__account__directory_url__in=directory,
        )
        .exclude(issuance=issuance)
        .select_related("record__credential", "issuance")
    )
    found = [
        _kept(each, ttls, now)
        for each in answered
        if each.record and _pair(each.record) not in wanted
    ]
    lasting = [each for each in found if each.until > now]
    return max(lasting, default=None)


def _pair(record: TxtRecord) -> tuple[str, str]:
    return record.name, record.value


def _kept(answered: Authorization, ttls: Mapping[str, int], now: datetime) -> Kept:
    record, issuance = answered.record, answered.issuance
    assert record
    ttl = min(max(ttls[record.name], record.ttl), int(LONGEST.total_seconds()))
    looked_at = now if issuance.state == Issuance.State.PROPAGATED else issuance.state_since
    return Kept(looked_at + timedelta(seconds=ttl), record.name, ttl)
