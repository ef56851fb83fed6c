"""Outside calls on the simulated clock: each takes time, others run meanwhile, and faults occur."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from authorities.base import RenewalInfoResource
from authorities.errors import Refused
from certctrl import clock
from certctrl.turns import Trouble
from dnsclient.survey import Survey, Zone
from dnsproviders.base import ProviderError
from dnsproviders.models import TxtRecord
from tests.fakes.ca import FakeAuthorization, FakeCA, FakeClient
from tests.fakes.outside import Died, Outside
from tests.fakes.zone import FakeProvider, FakeZone
from tests.simulation.faults import Faults
from tests.simulation.scheduler import Scheduler

if TYPE_CHECKING:
    from authorities.models import AcmeAccount
    from dnsproviders.models import DnsCredential
    from tests.simulation.watch import Watch

Effect = Callable[[], Any]


class SimulatedOutside(Outside):
    def __init__(self, scheduler: Scheduler, faults: Faults, watch: "Watch") -> None:
        super().__init__()
        self.scheduler = scheduler
        self.faults = faults
        self.watch = watch
        self.struck: Counter[str] = (
            Counter()
        )  # how often a fault left unclear what became of a call of this name

    def call(self, name: str, effect: Effect, record: TxtRecord | None = None) -> Any:
        actor = self.scheduler.actor
        assert actor, f"{name} is called by nobody"
        self.calls.append(name)
        left = clock.time_left()
        if left <= 0:
            self.scheduler.note(f"{name}: refused to start, the turn is over")
            raise timed_out(name)
        kind = "" if self.watch.is_healthy(actor) else self.faults.of_a_call(name)
        way = self._way(kind, name)
        self.scheduler.note(f"{name} {record or ''} {way.__name__.strip('_')}")
        if way not in (self._goes_well, self._fails, self._refuses):
            self.struck[name] += 1
            self.watch.excuse(record)
        self.watch.enters(actor, name, record)
        try:
            return way(name, effect, left)
        finally:
            actor.calling = ""

    def _way(self, kind: str, name: str) -> Callable[[str, Effect, float], Any]:
        draw = self.faults.rng.choice
        if kind == "die":
            return draw((self._dies_before, self._dies_after, self._dies_and_it_comes_late))
        if kind == "hold":
            return draw((self._held_before, self._held_after, self._held_then_late))
        if kind == "late":
            return draw((self._comes_late, self._answer_is_lost))
        if kind == "fail":
            return self._fails
        if kind == "refuse" and name.startswith("ca."):
            return self._refuses
        return self._goes_well

    # --- what may become of a call ---

    def _goes_well(self, name: str, effect: Effect, left: float) -> Any:
        there = min(self.faults.pause(), left / 2)
        back = min(self.faults.pause(), left - there)
        self.scheduler.pause(there)
        result = effect()
        self.scheduler.pause(back)
        return result

    def _fails(self, name: str, effect: Effect, left: float) -> Any:
        self.scheduler.pause(min(self.faults.pause(), left))
        raise timed_out(name)

    def _refuses(self, name: str, effect: Effect, left: float) -> Any:
        self.scheduler.pause(min(self.faults.pause(), left))
        raise refusal(name, self.faults)

    def _comes_late(self, name: str, effect: Effect, left: float) -> Any:
        self._later(name, effect, left)
        self.scheduler.pause(left)
        raise timed_out(name)

    def _answer_is_lost(self, name: str, effect: Effect, left: float) -> Any:
        there = min(self.faults.pause(), left)
        self.scheduler.pause(there)
        effect()
        self.scheduler.pause(left - there)
        raise timed_out(name)

    def _dies_before(self, name: str, effect: Effect, left: float) -> Any:
        self.scheduler.pause(min(self.faults.pause(), left))
        raise Died(name)

    def _dies_after(self, name: str, effect: Effect, left: float) -> Any:
        self._goes_well(name, effect, left)
        raise Died(name)

    def _dies_and_it_comes_late(self, name: str, effect: Effect, left: float) -> Any:
        self._later(name, effect, 0.0)
        self.scheduler.pause(min(self.faults.pause(), left))
        raise Died(name)

    def _held_before(self, name: str, effect: Effect, left: float) -> Any:
        self._hold()
        result = effect()
        return self._or_lost(name, result)

    def _held_after(self, name: str, effect: Effect, left: float) -> Any:
        self.scheduler.pause(min(self.faults.pause(), left))
        result = effect()
        self._hold()
        return self._or_lost(name, result)

    def _held_then_late(self, name: str, effect: Effect, left: float) -> Any:
        """The request leaves after the hold, the caller gives up, and then it arrives."""
        self._hold()
        self._later(name, effect, left)
        self.scheduler.pause(left)
        raise timed_out(name)

    def _hold(self) -> None:
        assert self.scheduler.actor
        self.scheduler.actor.was_held = True
        self.scheduler.pause(self.faults.hold())

    def _or_lost(self, name: str, result: Any) -> Any:
        if self.faults.rng.random() < 0.3:
            raise timed_out(name)
        return result

    def _later(self, name: str, effect: Effect, least: float) -> None:
        def arrive() -> None:
            self.scheduler.note(f"{name} takes effect, late")
            try:
                effect()
            except Exception as error:
                self.scheduler.note(f"{name} came to nothing: {error}")

        self.scheduler.after(
            self.faults.rng.uniform(least, max(least, self.faults.profile.lateness)), arrive
        )


def timed_out(name: str) -> Trouble:
    if name.startswith("ca."):
        return Trouble("ca_unreachable", "The CA did not answer in time.")
    return ProviderError("dns_unreachable", "The DNS provider did not answer in time.")


def refusal(name: str, faults: Faults) -> Trouble:
    """Return a refusal of a CA."""
    pick = faults.rng.choice(("rate", "caa", "unknown"))
    if pick == "caa" and name in ("ca.new_order", "ca.finalize"):
        return Refused("ca_caa", "The CA says: CAA forbids it (caa)")
    if pick == "unknown" and name != "ca.register":
        return Trouble("ca_account_unknown", "The CA does not know the account.")
    return Trouble(
        "ca_rate_limited",
        "Too many requests (rateLimited)",
        retry_after=faults.rng.choice((5, 60, 900)),
    )


# --- the zone ---


class SimulatedZone(FakeZone):
    """`values` is the zone's content. Name servers and the provider's listing show it later."""

    outside: SimulatedOutside

    def __init__(self, outside: SimulatedOutside) -> None:
        super().__init__(outside)
        self.written_at: dict[tuple[str, str], float] = {}

    def survey(self, names: Collection[str], seconds: float) -> Survey:
        """Return a survey that shows the zone, so that the provider is not asked again for it."""
        seen = super().survey(names, seconds)
        zone = Zone("example.com", {"ns1": 1})
        return dataclasses.replace(seen, zones={path.final: zone for path in seen.paths.values()})

    def present(self, name: str, value: str) -> None:
        if value not in self.values.get(name, ()):
            self.written_at[name, value] = self.outside.scheduler.passed
        super().present(name, value)

    def cleanup(self, name: str, value: str) -> int:
        if self.age(name, value) < self.outside.faults.profile.listing_lag:
            return 0
        return super().cleanup(name, value)

    def shows(self, name: str, value: str) -> bool:
        return self.is_in(name, value) and self.age(name, value) >= self.outside.faults.profile.lag

    def is_in(self, name: str, value: str) -> bool:
        return value in self.values.get(name, ())

    def age(self, name: str, value: str) -> float:
        return self.outside.scheduler.passed - self.written_at.get((name, value), float("-inf"))

    def look(self, records: Any, seconds: float | None = None) -> Any:
        """Look at the zone. A look that fails saw nothing, and never raises."""
        try:
            return super().look(records, seconds)
        except ProviderError:
            return {record.pk: nothing_seen() for record in records}


def nothing_seen() -> Any:
    from dnsproviders.propagation import Look

    return Look(shown=0, missing=(), silent=("ns1",), note="")


class SimulatedProvider(FakeProvider):
    zone: SimulatedZone

    def __init__(self, zone: SimulatedZone, credential: "DnsCredential") -> None:
        super().__init__(zone, credential)

    def present(self, record: TxtRecord) -> None:
        watch = self.zone.outside.watch
        watch.presents(record)
        self.zone.outside.call(
            "zone.present", lambda: self.zone.present(record.name, record.value), record
        )

    def cleanup(self, record: TxtRecord) -> int:
        def effect() -> int:
            self.zone.outside.watch.removes(record)
            return self.zone.cleanup(record.name, record.value)

        removed: int = self.zone.outside.call("zone.cleanup", effect, record)
        return removed


# --- the CA ---


class SimulatedCA(FakeCA):
    """Validates by itself some time after the response to the challenge, as CAs do."""

    outside: SimulatedOutside
    zone: SimulatedZone

    def client_for(self, account: "AcmeAccount") -> FakeClient:
        return SimulatedClient(self, account)

    def validate(self, authorization: FakeAuthorization) -> None:
        pass

    def look_at(self, authorization: FakeAuthorization) -> None:
        if authorization.status != "pending":
            return
        name = f"_acme-challenge.{authorization.identifier}"
        shown = self.zone.shows(name, authorization.value)
        authorization.status = "valid" if shown else "invalid"
        self.outside.scheduler.note(
            f"the CA finds {authorization.identifier} {authorization.status}"
        )
        if not shown:
            self.outside.watch.not_found(authorization.url, name, authorization.value)


class SimulatedClient(FakeClient):
    ca: SimulatedCA

    def _answer(self, challenge_url: str) -> None:
        found = self.ca.find(challenge_url)
        if not found.answered:
            found.answered = True
            faults = self.ca.outside.faults
            self.ca.outside.scheduler.after(
                faults.rng.uniform(0.0, faults.profile.validation), lambda: self.ca.look_at(found)
            )

    def _renewal_info(self, ari_id: str) -> RenewalInfoResource:
        """The CA asks for frequent polls while there are faults."""
        is_quiet = self.ca.outside.faults.stopped
        return dataclasses.replace(
            super()._renewal_info(ari_id), retry_after=None if is_quiet else 120.0
        )
