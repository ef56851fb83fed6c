"""Find the zone that holds a name, and the authoritative servers of the zone.

The questions go to the resolvers, or to the servers of the zone above. They are sent in batches,
so that the names of 500 attempts take a few round trips. `dnsclient.cnames` follows the CNAMEs of
a challenge.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver
from django.conf import settings

from certctrl import clock
from certctrl.lanes import Lane
from certctrl.outgoing import is_allowed
from certctrl.sentences import Part, Sentence
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble
from dnsclient import queries
from dnsclient.names import is_inside
from dnsclient.queries import KNOWN, Address, Answers, Query

# How long each cache keeps its values, in seconds. Several workers ask about a name, each
# of them every minute or two. A zone must be kept for longer than that.
ZONE_KEPT = 300.0
SERVERS_KEPT = 60.0
SILENCE_KEPT = 60.0
HOLDERS_ASKED = 2  # servers of a zone that are asked, one after the other, before the resolvers
HOLDER_PATIENCE = 1.0  # most seconds for each of these servers
HOLDER_SHARE = 0.25  # most of the time left for each of these servers
LEAST_PATIENCE = 0.25  # seconds after which a server that was asked counts as silent
KEPT = 10_000  # most entries of a cache
# Most hosts, and most addresses, of one zone. The root zone has 13 servers. A zone that lists more
# would make this server ask more than necessary.
MOST_ADDRESSES = 13
SOA = dns.rdatatype.SOA
NS = dns.rdatatype.NS
CNAME = dns.rdatatype.CNAME
ADDRESSES = (dns.rdatatype.A, dns.rdatatype.AAAA)
# Not judged by itself: an owner's own name servers may be what is silent behind them.
RESOLVERS = Lane("dns", _("the resolver"), is_judged=False)
NO_TIME = _("the time was too short to ask")
NO_RESOLVER = _(
    "no DNS resolver is known, so set DNS_RESOLVERS to addresses such as 192.0.2.53,192.0.2.54:5353"
)

Question = tuple[str, dns.rdatatype.RdataType]
Reply = dns.message.Message | str  # an answer, or why there is none
Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Server:
    """One address of one name server."""

    name: str
    at: Address

    def __str__(self) -> str:
        return f"{self.name} ({self.at[0]})" if self.name else self.at[0]

    def saying(self, what: str) -> str:
        if not self.name:
            return Sentence("%(at)s (%(what)s)", {"at": self.at[0], "what": what})
        parts: dict[str, Part] = {"name": self.name, "at": self.at[0], "what": what}
        return Sentence("%(name)s (%(at)s, %(what)s)", parts)


@dataclass(frozen=True)
class Servers:
    """The authoritative servers of a zone.

    `skipped` names the hosts that are not asked, each with the reason.
    """

    zone: str
    servers: tuple[Server, ...]
    skipped: tuple[str, ...] = ()


# --- Resolvers ---


def resolvers() -> list[Address]:
    """Return the resolvers of the setting DNS_RESOLVERS. Without it, return those of the system.

    The setting has the forms `ip`, `ip:port` and `[ip]:port`. The default port is DNS_PORT.
    Raise Trouble("dns_lookup_failed") when no resolver is known.
    """
    try:
        if settings.DNS_RESOLVERS:
            return [_place(each.strip(), settings.DNS_PORT) for each in settings.DNS_RESOLVERS]
        return [queries.address(str(each), 53) for each in dns.resolver.Resolver().nameservers]
    except (ValueError, dns.exception.DNSException) as exc:
        what = _(
            "No DNS resolver is known. Set DNS_RESOLVERS to their addresses, for example "
            "192.0.2.53,192.0.2.54:5353."
        )
        raise Trouble("dns_lookup_failed", what) from exc


def _place(text: str, port: int) -> Address:
    if text.startswith("[") or text.count(":") == 1:
        text, _, after = text.rpartition(":") if not text.endswith("]") else (text, "", "")
        port = int(after) if after else port
    return queries.address(text.strip("[]"), port)


def resolve(questions: Collection[Question], seconds: float) -> dict[Question, Reply]:
    """Ask the resolvers, one after the other, and return a Reply to each question.

    The next resolver gets the questions that the ones before did not answer. A silent resolver is
    asked last for SILENCE_KEPT, because each batch would wait for it otherwise.
    Ends within `seconds`. Raise Trouble when no resolver is known.
    """
    end = clock.monotonic() + seconds
    replies: dict[Question, Reply] = dict.fromkeys(questions, NO_TIME)
    open_questions = list(replies)
    servers = sorted(resolvers(), key=lambda each: _silent.get(str(each)) or False)
    for left, server in zip(range(len(servers), 0, -1), servers, strict=True):
        remaining = end - clock.monotonic()
        if not open_questions or remaining <= 0:
            break
        sent = {question: Query(server, *question, recurse=True) for question in open_questions}
        patience = max(remaining / left, min(remaining, 4 * queries.PATIENCE))
        answers = queries.ask(sent.values(), patience)
        _note_zones(answers)
        if not answers.got and patience >= queries.PATIENCE:
            _silent.put(str(server), value=True)
        replies |= {question: _reply(answers, asked) for question, asked in sent.items()}
        open_questions = [
            question for question in open_questions if isinstance(replies[question], str)
        ]
    return replies


def resolve_until(end: float, questions: Collection[Question]) -> dict[Question, Reply]:
    """Do the same as `resolve`, and end by `end`, in seconds of the monotonic clock.

    When no resolver is known, every Reply is NO_RESOLVER.
    """
    try:
        return resolve(questions, end - clock.monotonic())
    except Trouble:
        return dict.fromkeys(questions, NO_RESOLVER)


def _reply(answers: Answers, asked: Query) -> Reply:
    message = answers.got.get(asked)
    where = _("the resolver %(address)s", address=asked.server[0])
    if message is None:
        return _("%(where)s did not answer", where=where)
    if message.rcode() not in KNOWN:
        return _(
            "%(where)s answered %(rcode)s", where=where, rcode=dns.rcode.to_text(message.rcode())
        )
    return (
        _("%(where)s does not answer over TCP", where=where)
        if message.flags & dns.flags.TC
        else message
    )


class NotThere(Trouble):
    """The resolvers answer, but show no such record or refuse the question.

    A retry alone does not help.
    """


def unknown(what: str, why: str, kind: type[Trouble] = Trouble) -> Trouble:
    """Return the Trouble of a failed look-up.

    `what` is the sentence that says what could not be found. `why` is the reason.
    """
    advice = _(
        "Check that the zone's name servers work, or set DNS_RESOLVERS to resolvers that "
        "can see the zone."
    )
    return kind(
        "dns_lookup_failed", _("%(what)s: %(why)s. %(advice)s", what=what, why=why, advice=advice)
    )


def text_of(name: dns.name.Name) -> str:
    """Return the name as text, in lower case, without the last dot."""
    return name.to_text(omit_final_dot=True).lower()


# --- Zones and their servers ---


class Cache(Generic[Kept]):
    """A cache that keeps each value for `seconds`. It is safe between threads.

    The key is the name, together with the DNS settings.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[object, ...], tuple[float, Kept]] = OrderedDict()

    def get(self, name: str) -> Kept | None:
        with self._lock:
            until, value = self._kept.get(_key(name), (0.0, None))
        return value if until > clock.monotonic() else None

    def put(self, name: str, value: Kept) -> None:
        key = _key(name)
        with self._lock:
            self._kept[key] = clock.monotonic() + self.seconds, value
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)

    def __contains__(self, name: str) -> bool:
        """Return whether the name has a value, or had one that is too old."""
        with self._lock:
            return _key(name) in self._kept

    def drop(self, names: Iterable[str], before: float) -> None:
        """Drop the values of these names that were put before `before`, a monotonic time."""
        with self._lock:
            for name in names:
                until, _value = self._kept.get(_key(name), (0.0, None))
                if until < before + self.seconds:
                    self._kept.pop(_key(name), None)

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()


def _key(name: str) -> tuple[object, ...]:
    """Return the key of a name. It has the settings on which the answer depends."""
    return name, settings.DNS_PORT, *settings.DNS_RESOLVERS, *settings.ALLOW_PRIVATE


_silent: Cache[bool] = Cache(SILENCE_KEPT)  # resolvers
_deaf: Cache[bool] = Cache(SILENCE_KEPT)  # zones whose servers do not answer this machine
_zones: Cache[str] = Cache(ZONE_KEPT)
_servers: Cache[Servers] = Cache(SERVERS_KEPT)


def forget() -> None:
    """Empty this process's caches."""
    _silent.clear()
    _deaf.clear()
    _zones.clear()
    _servers.clear()


def servers_of(name: str) -> Servers:
    """Return the authoritative servers of the zone that holds the name.

    A name that is delegated is a zone itself.
    Raise Trouble("dns_lookup_failed").
    """
    found = servers_of_all([name], clock.time_left())[name]
    if isinstance(found, Trouble):
        raise found
    return found


def servers_of_all(
    names: Iterable[str], seconds: float, *, since: float = float("-inf")
) -> dict[str, Servers | Trouble]:
    """Return the servers of many names, or a Trouble where the look-up failed.

    The names are looked up in the given order, within `seconds`. Zones that were found before
    `since`, a monotonic time, are looked up again, because somebody may just have fixed a
    delegation.
    """
    end = clock.monotonic() + seconds
    names = dict.fromkeys(names)
    _zones.drop(names, since)
    zones = _kept_or_found(_zones, names, _find_zones, end)
    wanted = dict.fromkeys(zone for zone in zones.values() if isinstance(zone, str))
    servers = _kept_or_found(_servers, wanted, _find_servers, end)
    return {
        name: zone if isinstance(zone, Trouble) else servers[zone] for name, zone in zones.items()
    }


def presumed_servers_of_all(names: Iterable[str], seconds: float) -> dict[str, Servers]:
    """Return the servers of the nearest zone at or above each name, among those seen lately.

    The name may be in another zone, so that only an answer can confirm the zone. This takes no
    question for each name. Names whose zone is known are left out, and those of silent servers.
    """
    zones = {
        name: zone
        for name in dict.fromkeys(names)
        if (zone := _nearest(name)) and _zones.get(name) is None and not _deaf.get(zone)
    }
    end = clock.monotonic() + seconds
    servers = _kept_or_found(_servers, dict.fromkeys(zones.values()), _find_servers, end)
    return {
        name: found for name, zone in zones.items() if isinstance(found := servers[zone], Servers)
    }


def _nearest(name: str) -> str:
    """Return the nearest zone at or above the name, among those seen lately. Return "" without."""
    while name and name not in _servers:
        name = name.partition(".")[2]
    return name


def _kept_or_found(
    cache: Cache[Kept],
    names: Collection[str],
    find: Callable[[Collection[str], float], dict[str, Kept | Trouble]],
    end: float,
) -> dict[str, Kept | Trouble]:
    known: dict[str, Kept | Trouble] = {
        name: kept for name in names if (kept := cache.get(name)) is not None
    }
    missing = [name for name in names if name not in known]
    found = find(missing, end) if missing else {}
    for name, value in found.items():
        if not isinstance(value, Trouble):
            cache.put(name, value)
    return known | found


def ask_holders(questions: Collection[Question], end: float) -> dict[Question, Reply]:
    """Ask authoritative servers about names at which a record will be written later.

    The servers are those of the zone that holds the name above. A resolver that is asked too early
    caches the negative answer, and denies the record later (RFC 2308; RFC 8020).
    A resolver is asked only where no server answers. Then the name itself is delegated, or this
    machine cannot reach the servers.
    """
    zones = _kept_or_found(
        _zones, dict.fromkeys(above(name) for name, _ in questions), _find_zones_above, end
    )
    hearing = dict.fromkeys(
        zone for zone in zones.values() if isinstance(zone, str) and not _deaf.get(zone)
    )
    holders = _kept_or_found(_servers, hearing, _find_servers, end)
    servers = {each: _servers_in(holders.get(str(zones[above(each[0])]))) for each in questions}
    replies: dict[Question, Reply] = {}
    heard: set[object] = set()
    waited_for: set[object] = set()
    for at in range(HOLDERS_ASKED):
        sent = {
            each: Query(of[at].at, *each)
            for each, of in servers.items()
            if each not in replies and at < len(of)
        }
        if not sent:
            break
        seconds = min(HOLDER_PATIENCE, (end - clock.monotonic()) * HOLDER_SHARE)
        answers = queries.ask(sent.values(), seconds)
        _note_zones(answers)
        for question, asked in sent.items():
            message, zone = answers.got.get(asked), zones[above(question[0])]
            if message:
                heard.add(zone)
            elif seconds >= LEAST_PATIENCE and asked not in answers.unsent:
                waited_for.add(zone)
            if message and _is_whole(message):
                replies[question] = message
    for zone in hearing.keys() & waited_for - heard:
        _deaf.put(zone, value=True)
    return replies | resolve_until(end, [each for each in questions if each not in replies])


def _note_zones(answers: Answers) -> None:
    """Keep the zones that negative answers name. So nobody asks which zone has the name."""
    for asked, zone in answers.zones.items():
        if is_inside(asked.name, zone):
            _zones.put(asked.name, zone)


def above(name: str) -> str:
    return name.partition(".")[2] or name


def _servers_in(found: Servers | Trouble | None) -> tuple[Server, ...]:
    return found.servers if isinstance(found, Servers) else ()


def _is_whole(message: dns.message.Message) -> bool:
    """Return whether the answer is authoritative, complete and without an error."""
    return (
        bool(message.flags & dns.flags.AA)
        and message.rcode() in KNOWN
        and not message.flags & dns.flags.TC
    )


def _find_zones(names: Collection[str], end: float) -> dict[str, str | Trouble]:
    """Return the zone of each name, by its SOA record. Without one, it is the zone above.

    A record will be written at these names, so that `ask_holders` asks.
    """
    replies = ask_holders([(name, SOA) for name in names], end)
    found: dict[str, str | Trouble] = {}
    for name in names:
        reply = replies[name, SOA]
        if isinstance(reply, str):
            found[name] = _zone_unknown(name, reply, _kind(reply))
        elif zone := soa_owner(reply, name):
            found[name] = zone
    others = {name: above(name) for name in names if name not in found}
    zones = _kept_or_found(_zones, dict.fromkeys(others.values()), _find_zones_above, end)
    return found | {name: zones[each] for name, each in others.items()}


def _kind(why: str) -> type[Trouble]:
    """Return NotThere for a refusal, because some resolvers refuse every question for SOA."""
    return NotThere if why.endswith(("REFUSED", "NOTIMP")) else Trouble


def _zone_unknown(name: str, why: str, kind: type[Trouble] = Trouble) -> Trouble:
    return unknown(_("The zone of %(name)s could not be found", name=name), why, kind)


def _find_zones_above(names: Collection[str], end: float) -> dict[str, str | Trouble]:
    """Return the zone of each name.

    It is the owner of the SOA record that the resolvers show for the name or the nearest one above.
    """
    found: dict[str, str | Trouble] = {}
    at = {name: name for name in names}
    while at:
        replies = resolve_until(end, [(each, SOA) for each in dict.fromkeys(at.values())])
        for name, asked in list(at.items()):
            reply = replies[asked, SOA]
            zone = (
                _zone_unknown(name, reply, _kind(reply))
                if isinstance(reply, str)
                else soa_owner(reply, asked)
            )
            if zone is None and "." in asked:
                at[name] = asked.partition(".")[2]
                continue
            found[name] = zone or _zone_unknown(
                name, _("no name above it has a SOA record"), NotThere
            )
            del at[name]
    return found


def soa_owner(reply: dns.message.Message, asked: str) -> str | None:
    """Return the owner of the SOA record that is at or above `asked`. It is the zone.

    The record is in the answer section, or in the authority section of a negative answer.
    Return None for a CNAME, because that answer is about the CNAME's target. Then ask about the
    name above. The root is ignored, because it holds no challenges.
    """
    owner = dns.name.from_text(asked)
    if any(rrset.rdtype == CNAME for rrset in reply.answer):
        return None
    for rrset in (*reply.answer, *reply.authority):
        if rrset.rdtype == SOA and owner.is_subdomain(rrset.name) and rrset.name != dns.name.root:
            return text_of(rrset.name)
    return None


def _find_servers(zones: Collection[str], end: float) -> dict[str, Servers | Trouble]:
    """Return the servers of each zone, from its NS records and their A and AAAA records."""
    replies = resolve_until(end, [(zone, NS) for zone in zones])
    hosts = {zone: _ns_hosts(replies[zone, NS], zone) for zone in zones}
    wanted = dict.fromkeys(
        host for each in hosts.values() if not isinstance(each, Trouble) for host in each
    )
    found = _addresses_or_why(wanted, end)
    return {
        zone: each
        if isinstance(each, Trouble)
        else _servers_at(zone, {host: found[host] for host in each})
        for zone, each in hosts.items()
    }


def addresses_of(hosts: Collection[str], end: float) -> dict[str, list[str]]:
    """Return the IPv4 and IPv6 addresses of each host.

    The list is empty for a host without addresses, or when the look-up failed.
    Ends by `end`, in seconds of the monotonic clock.
    """
    found = _addresses_or_why(hosts, end)
    return {host: [] if isinstance(each, str) else each for host, each in found.items()}


def _addresses_or_why(hosts: Collection[str], end: float) -> dict[str, list[str] | str]:
    """Return the addresses of each host, or the reason where a failed look-up left none."""
    replies = resolve_until(end, [(host, kind) for host in hosts for kind in ADDRESSES])
    found: dict[str, list[str] | str] = {}
    for host in hosts:
        of_host = [replies[host, kind] for kind in ADDRESSES]
        addresses = [ip for reply in of_host for ip in _addresses(reply)]
        why = next((reply for reply in of_host if isinstance(reply, str)), "")
        found[host] = addresses if addresses or not why else why
    return found


def _servers_at(zone: str, hosts: Mapping[str, list[str] | str]) -> Servers | Trouble:
    """Return the servers of a zone, or a Trouble.

    It is a Trouble when no address was found and a look-up failed. The zone may have servers then.
    """
    whys = [each for each in hosts.values() if isinstance(each, str)]
    if whys and not any(isinstance(each, list) and each for each in hosts.values()):
        return unknown(
            _("The addresses of the name servers of %(zone)s could not be found", zone=zone),
            whys[0],
        )
    return servers_at(
        zone, {host: [] if isinstance(each, str) else each for host, each in hosts.items()}
    )


def _ns_hosts(reply: Reply, zone: str) -> list[str] | Trouble:
    if isinstance(reply, str):
        return unknown(_("The name servers of %(zone)s could not be found", zone=zone), reply)
    hosts = sorted(
        {text_of(each.target) for rrset in reply.answer if rrset.rdtype == NS for each in rrset}
    )
    why = _("the zone has no NS records")
    return hosts[:MOST_ADDRESSES] or unknown(
        _("The name servers of %(zone)s could not be found", zone=zone), why, NotThere
    )


def servers_at(zone: str, hosts: Mapping[str, Sequence[str]]) -> Servers:
    """Return the zone's servers, from the addresses of its hosts.

    Each address occurs once. `skipped` names the hosts that have no address, or one to which
    requests are not allowed. Where there are more than MOST_ADDRESSES, each host keeps some.
    """
    servers: dict[Address, Server] = {}
    skipped = [
        _("%(host)s (no address)", host=host) for host, addresses in hosts.items() if not addresses
    ]
    for host, ip in queries.round_robin(
        [[(host, ip) for ip in addresses] for host, addresses in hosts.items()]
    ):
        if is_allowed(host, ip, settings.DNS_PORT):
            at = queries.address(ip, settings.DNS_PORT)
            servers.setdefault(at, Server(host, at))
        else:
            skipped.append(_("%(host)s (not public, and not named in ALLOW_PRIVATE)", host=host))
    return Servers(zone, tuple(servers.values())[:MOST_ADDRESSES], tuple(skipped[:MOST_ADDRESSES]))


def _addresses(reply: Reply) -> list[str]:
    if isinstance(reply, str):
        return []
    return [each.address for rrset in reply.answer if rrset.rdtype in ADDRESSES for each in rrset]
