"""A zone in memory, and the DNS provider that writes into it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from dnsclient.cnames import CnamePath, challenge_of
from dnsclient.survey import Survey, Zone
from dnsproviders.base import ProviderError, SeenZone
from dnsproviders.models import DnsCredential, TxtRecord
from dnsproviders.propagation import Look
from tests.fakes.outside import Outside


@dataclass
class FakeZone:
    """The zone.

    - `values`: the TXT records, as {name: values}
    - `removed`: the (name, value) of each record that was removed
    - `refuses`: the errors of the next calls of the provider
    - `hides`: the name servers show no records
    - `cnames`: CNAMEs at the names of challenges
    - `blinds`: the error when a credential looks for its zone
    - `denied`: seconds for which resolvers still cache a negative answer
    - `doubt`: the provider's doubt about the zone that it writes to
    """

    outside: Outside
    values: dict[str, set[str]] = field(default_factory=dict)
    removed: list[tuple[str, str]] = field(default_factory=list)
    refuses: list[ProviderError] = field(default_factory=list)
    hides: bool = False
    cnames: dict[str, str] = field(default_factory=dict)
    blinds: ProviderError | None = None
    denied: int = 0
    doubt: str = ""

    def txt(self) -> list[tuple[str, str]]:
        return sorted((name, value) for name, values in self.values.items() for value in values)

    def present(self, name: str, value: str) -> None:
        self.values.setdefault(name, set()).add(value)

    def cleanup(self, name: str, value: str) -> int:
        if value not in self.values.get(name, set()):
            return 0
        self.values[name].remove(value)
        self.removed.append((name, value))
        return 1

    def shows(self, name: str, value: str) -> bool:
        return not self.hides and value in self.values.get(self.final_name(name), set())

    def final_name(self, name: str) -> str:
        return self.cnames.get(name, name)

    def follow(self, names: Collection[str], seconds: float) -> dict[str, CnamePath]:
        starts = {name: challenge_of(name) for name in names}
        return {
            name: CnamePath(tuple(dict.fromkeys((start, self.final_name(start)))))
            for name, start in starts.items()
        }

    def survey(self, names: Collection[str], seconds: float) -> Survey:
        """Return a survey without any fault."""
        paths = FakeZone.follow(self, names, seconds)
        zones = (
            {each.final: Zone("example.com", {"ns1": 1}) for each in paths.values()}
            if self.doubt
            else {}
        )
        return Survey(paths=paths, zones=zones)

    def look(self, records: Sequence[TxtRecord], seconds: float | None = None) -> dict[int, Look]:
        if not records:
            return {}
        seen = self.outside.call(
            "zone.look",
            lambda: {record.pk: self.shows(record.name, record.value) for record in records},
        )
        missing = Look(0, ("ns1",), (), denied=self.denied, denial=7200)
        return {pk: Look(1, (), ()) if shown else missing for pk, shown in seen.items()}


class FakeProvider:
    """The four calls of a DNS provider, made directly to the zone in memory."""

    def __init__(self, zone: FakeZone, credential: DnsCredential) -> None:
        self.zone = zone
        self.credential = credential

    def zone_of(self, name: str) -> str:
        if self.zone.blinds:
            raise self.zone.blinds
        return self.zone.outside.call("zone.zone_of", lambda: "example.com")

    def zone_name(self, zone: str) -> str:
        return zone

    def doubt(self, zone: str, name: str, seen: SeenZone) -> str:
        return self.zone.doubt

    def present(self, record: TxtRecord) -> None:
        self._maybe_refuse()
        self.zone.outside.call("zone.present", lambda: self.zone.present(record.name, record.value))

    def cleanup(self, record: TxtRecord) -> int:
        self._maybe_refuse()
        return self.zone.outside.call(
            "zone.cleanup", lambda: self.zone.cleanup(record.name, record.value)
        )

    def _maybe_refuse(self) -> None:
        if self.zone.refuses:
            raise self.zone.refuses.pop(0)
