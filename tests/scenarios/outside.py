"""Outside parties on the simulated clock. A call occupies its worker thread until it ends."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from authorities.acme.problems import ProblemResponse, trouble_of
from authorities.base import OrderResource
from certctrl import clock
from certctrl.turns import Trouble
from dnsclient.cnames import CnamePath, challenge_of
from dnsclient.survey import Survey
from dnsproviders.base import ProviderError
from dnsproviders.models import DnsCredential, TxtRecord
from dnsproviders.propagation import Look
from lab.limiting import registered_domain
from tests.fakes.ca import FakeCA, FakeClient, FakeOrder
from tests.fakes.limiting import Limiter
from tests.fakes.outside import Outside
from tests.fakes.zone import FakeProvider, FakeZone
from tests.simulation.scheduler import Scheduler

if TYPE_CHECKING:
    from authorities.models import AcmeAccount


@dataclass(frozen=True)
class Manner:
    """How a party answers a call.

    - `seconds`: the length of the call; the caller gives up earlier if its own limit is shorter
    - `is_done`: whether the call has its effect
    - `error`: the error that the caller gets, if any
    """

    seconds: float = 0.05
    is_done: bool = True
    error: Exception | None = None


WELL = Manner()
NEVER = Manner(seconds=float("inf"), is_done=False)
UNREACHABLE = Manner(
    seconds=0.1,
    is_done=False,
    error=Trouble("ca_unreachable", "The CA could not be reached: connection refused."),
)
LOST = Manner(seconds=float("inf"))  # done, but the answer does not arrive


def slow(seconds: float) -> Manner:
    return Manner(seconds=seconds)


def refusal(status: int, words: str = "", retry_after: float | None = None) -> Exception:
    """Return the error that the ACME client makes of such an answer."""
    document = {"type": "urn:ietf:params:acme:error:rateLimited", "detail": words} if words else {}
    return trouble_of(ProblemResponse(status, document, retry_after), "The CA refused the order")


UNAVAILABLE = Manner(is_done=False, error=refusal(503))


class TimedOutside(Outside):
    """Every call takes simulated time.

    `manners` has the parties that do not answer well. A key is a party (`ca`) or one of its calls
    (`ca.new_order`).
    """

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self.scheduler = scheduler
        self.manners: dict[str, Manner] = {}
        self.made: list[tuple[float, str]] = []  # when each call was made, and its name

    def call(self, name: str, effect: Callable[[], Any], party: str = "") -> Any:
        self.calls.append(name)
        if not self.scheduler.actor:  # a person, before the run
            return effect()
        self.made.append((self.scheduler.passed, name))
        manner = self.manner(party or name.partition(".")[0], name)
        left = clock.time_left()
        seconds = min(manner.seconds, left)
        self.scheduler.pause(seconds / 2)
        result = effect() if manner.is_done and left > 0 else None
        self.scheduler.pause(seconds / 2)
        if manner.error:
            raise manner.error
        if manner.seconds > left or left <= 0:
            raise timed_out(name)
        return result

    def manner(self, party: str, name: str) -> Manner:
        return self.manners.get(name) or self.manners.get(party) or WELL

    def moments(self, name: str) -> list[float]:
        """Return when the calls with this name were made, in seconds since the start."""
        return [at for at, each in self.made if each == name]


def timed_out(name: str) -> Trouble:
    if name.startswith("zone."):
        return ProviderError("dns_unreachable", "The DNS provider did not answer in time.")
    return Trouble("ca_unreachable", "The CA did not answer in time.")


# --- the DNS ---

RESOLVER = "resolver"


class TimedZone(FakeZone):
    """A zone whose API is a party for each credential (`api 7`); the resolvers are one party."""

    outside: TimedOutside
    hidden: set[int]  # credentials whose records no name server shows

    def __init__(self, outside: TimedOutside) -> None:
        super().__init__(outside)
        self.hidden = set()

    def ask(self, effect: Callable[[], Any], seconds: float) -> Any:
        """Ask the resolvers. Return None when they do not answer within `seconds`."""
        manner = self.outside.manner(RESOLVER, RESOLVER)
        if self.outside.scheduler.actor:
            self.outside.made.append((self.outside.scheduler.passed, RESOLVER))
            self.outside.scheduler.pause(min(manner.seconds, seconds))
        return effect() if manner.seconds <= seconds else None

    def follow(self, names: Collection[str], seconds: float) -> dict[str, CnamePath]:
        known = super().follow
        found: dict[str, CnamePath] | None = self.ask(lambda: known(names, seconds), seconds)
        trouble = Trouble("dns_lookup_failed", "The CNAMEs could not be looked up: no answer.")
        return found or {each: CnamePath((challenge_of(each),), trouble=trouble) for each in names}

    def survey(self, names: Collection[str], seconds: float) -> Survey:
        known = super().survey
        found = self.ask(lambda: known(names, seconds), seconds)
        return found or Survey(silence="no resolver answers")

    def look(self, records: Sequence[TxtRecord], seconds: float | None = None) -> dict[int, Look]:
        if not records:
            return {}
        found = self.ask(lambda: self.seen(records), clock.time_left())
        return found or {each.pk: Look(0, (), (), note="no resolver answers") for each in records}

    def seen(self, records: Iterable[TxtRecord]) -> dict[int, Look]:
        missing, there = Look(0, ("ns1",), (), denial=7200), Look(1, (), ())
        return {
            each.pk: there
            if each.credential_id not in self.hidden and self.shows(each.name, each.value)
            else missing
            for each in records
        }


class TimedProvider(FakeProvider):
    zone: TimedZone

    def __init__(self, zone: TimedZone, credential: DnsCredential) -> None:
        super().__init__(zone, credential)
        self.party = f"api {credential.pk}"

    def zone_of(self, name: str) -> str:
        return self._call("zone.zone_of", lambda: registered_domain(name))

    def present(self, record: TxtRecord) -> None:
        self._call("zone.present", lambda: self.zone.present(record.name, record.value))

    def cleanup(self, record: TxtRecord) -> int:
        removed: int = self._call(
            "zone.cleanup", lambda: self.zone.cleanup(record.name, record.value)
        )
        return removed

    def _call(self, name: str, effect: Callable[[], Any]) -> Any:
        return self.zone.outside.call(name, effect, self.party)


# --- the CAs ---


@dataclass
class IssuanceLimiter(Limiter):
    """Limits like Let's Encrypt's.

    An order is refused when a bucket is empty. The account is charged for the order, the names only
    when the certificate is issued.
    """

    AT_ISSUANCE = ("domain", "set")
    uncharged: dict[tuple[str, str], float] = field(default_factory=dict)

    def order(self, account: int, names: Iterable[str]) -> None:
        wanted = [each for each in self.buckets(account, names) if each[0] in self.AT_ISSUANCE]
        before = {each: self.arrivals.get(each) for each in wanted}
        super().order(account, names)
        for each, arrival in before.items():
            if arrival is None:
                self.arrivals.pop(each, None)
            else:
                self.arrivals[each] = arrival

    def issue(self, account: int, names: Iterable[str]) -> None:
        now = clock.now().timestamp()
        for kind, subject in self.buckets(account, names):
            if kind in self.AT_ISSUANCE and kind in self.limits:
                arrival = max(now, self.arrivals.get((kind, subject), now))
                self.arrivals[kind, subject] = arrival + self.limits[kind][1]


class TimedCA(FakeCA):
    """A CA that notes when it signs, and that can refuse orders by their names."""

    outside: TimedOutside

    def __init__(self, *given: Any, **fields: Any) -> None:
        super().__init__(*given, **fields)
        self.signed: dict[str, list[float]] = defaultdict(list)  # by the first name, in seconds
        self.orders_of: dict[str, list[float]] = defaultdict(list)  # also those that it refused
        self.asks_back: float | None = None  # its Retry-After for a pending order, in seconds
        self.refuses: Callable[[tuple[str, ...]], Exception | None] = lambda names: None

    def client_for(self, account: "AcmeAccount") -> FakeClient:
        return TimedClient(self, account)

    def read(self, order: FakeOrder) -> None:
        """Somebody reads the order while it is pending."""

    def new_order(self, account: int, names: tuple[str, ...], replaces: str = "") -> Any:
        self.orders_of[names[0]].append(self.outside.scheduler.passed)
        if refusal := self.refuses(names):
            raise refusal
        return super().new_order(account, names, replaces)


class TimedClient(FakeClient):
    ca: TimedCA

    def prepare(self) -> None:
        """Fetch a nonce, as a client does that keeps none."""
        self.ca.call("prepare", lambda: None)

    def _read_order(self, url: str) -> OrderResource:
        resource = super()._read_order(url)
        if resource.status != "pending":
            return resource
        self.ca.read(self.ca.orders[url])
        return replace(resource, retry_after=self.ca.asks_back)

    def _finalize(self, url: str, csr_pem: str) -> OrderResource:
        resource = super()._finalize(url, csr_pem)
        order = self.ca.orders[url]
        self.ca.signed[order.names[0]].append(self.ca.outside.scheduler.passed)
        if isinstance(self.ca.limiter, IssuanceLimiter) and not order.replaces:
            self.ca.limiter.issue(order.account, order.names)
        return resource


def host(url: str) -> str:
    return urlsplit(url).hostname or ""
