"""The parties that an attempt calls next: the CA, the DNS API or both."""

from datetime import timedelta
from typing import NamedTuple

from django.db.models import Q

from authorities import catalog
from certctrl import clock, lanes
from certctrl.dispatch import Parties
from certctrl.lanes import Lane
from certctrl.sentences import sentence as _
from dnsproviders import registry
from issuance.models import Issuance

State = Issuance.State
SOON = timedelta(seconds=5)  # a due attempt usually has its turn by then
COLUMNS = (
    "state",
    "credential_id",
    "credential__provider",
    "credential__party",
    "account__ca_provider",
    "account__directory_url",
    "account__owner_id",
)
CALL_THE_CA = (State.QUEUED, State.PROPAGATED, State.VALIDATED, State.FINALIZED)
CALL_THE_DNS = (State.QUEUED, State.ORDERED)  # the preflight also calls the DNS API


class Calls(NamedTuple):
    """Whom the next steps of an attempt call, and for whom. These are the values of COLUMNS."""

    state: str
    credential: int | None
    provider: str | None
    party: str | None
    ca_provider: str
    directory_url: str
    owner: int

    @property
    def is_at_ca(self) -> Q:
        return Q(
            state__in=CALL_THE_CA,
            account__ca_provider=self.ca_provider,
            account__directory_url=self.directory_url,
        )

    @property
    def is_at_dns(self) -> Q:
        where = Q(credential__party=self.party) if self.party else Q(credential=self.credential)
        same = Q(state__in=CALL_THE_DNS, credential__provider=self.provider)
        return same & (Q() if self._has_one_api else where)

    @property
    def _has_one_api(self) -> bool:
        return not registry.provider_class(self.provider or "").is_named_by_owner

    def api_lane(self) -> Lane | None:
        if self.state not in CALL_THE_DNS or not self.credential or not self.provider:
            return None
        return registry.lane_of(self.provider, self.party or "", self.credential)

    def ca_lane(self) -> Lane | None:
        if self.state not in CALL_THE_CA:
            return None
        return catalog.lane_of(self.ca_provider, self.directory_url)

    def lanes(self) -> list[Lane]:
        return [lane for lane in (self.api_lane(), self.ca_lane()) if lane]

    def parties(self) -> Parties:
        return Parties(tuple(lane.key for lane in self.lanes()), self.owner)


def trouble_of(issuance: Issuance) -> str:
    """Return a sentence about the party that an attempt waits for, or "".

    Such an attempt gets no message while others ask the party, so it cannot write what it waits
    for.
    """
    is_due = issuance.wake_at and not issuance.holder and issuance.wake_at < clock.now() - SOON
    if not is_due or issuance.state == State.PRESENTED:
        return ""
    row = Issuance.objects.filter(pk=issuance.pk).values_list(*COLUMNS)
    for lane in Calls(*row.get()).lanes():
        if lanes.standing_of(lane.key) == lanes.Standing.TROUBLE:
            return _(
                "It waits for %(name)s, which does not answer. Two attempts at a time "
                "ask it again, and the others go on as soon as it answers.",
                name=lane.name,
            )
    return ""
