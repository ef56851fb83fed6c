"""Check the name servers of a zone: each is asked for the zone's SOA record."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from certctrl import clock
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble
from dnsclient import queries, resolver
from dnsclient.diagnosis import Fault, Unanswered, doubts, fresh
from dnsclient.names import is_inside, suffixes
from dnsclient.queries import Answers, Query
from dnsclient.resolver import ADDRESSES, Server, Servers, text_of

NS = dns.rdatatype.NS
SOA = dns.rdatatype.SOA
MOST_ASKED_ABOVE = 4  # servers of the zone above that are asked about a delegation


@dataclass(frozen=True)
class Zone:
    """The answers of a zone's name servers.

    `serials`, `lame`, `silent` and `skipped` hold labels. A label names a server and its address.
    A label in `lame` also has the server's answer.
    `fault` is set where no server is authoritative. It says why the resolvers do not answer for a
    new name in the zone.
    `above` is set where the resolvers find no server of this zone. It is the zone that delegates
    this one.
    """

    name: str
    # The SOA serial number of each authoritative server.
    serials: Mapping[str, int] = field(default_factory=dict)
    lame: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    # Hosts without an address, and addresses to which requests are not allowed.
    skipped: tuple[str, ...] = ()
    fault: Fault | None = None
    above: str = ""
    # Primary server and mailbox, as in the SOA records.
    origins: frozenset[str] = frozenset()


def zones_of(
    names: Collection[str], end: float, since: float | None = None
) -> dict[str, Zone | Unanswered]:
    """Return the zone that holds each name, or the reason why there is no answer.

    Zones that were found before `since`, now by default, are looked up again. Ends by `end`. Both
    are in seconds of the monotonic clock.
    """
    now = clock.monotonic()
    whom = resolver.servers_of_all(names, end - now, since=now if since is None else since)
    found = {name: each for name, each in whom.items() if isinstance(each, Servers)}
    lost = {name: each.what for name, each in whom.items() if isinstance(each, Trouble)}
    behind = doubts([(name, SOA) for name in lost], end)
    results = _doubted(_ask_all(found.values(), end), end)
    unanswered = {
        name: Unanswered(name, "SOA", what, behind[name, SOA]) for name, what in lost.items()
    }
    dead = [name for name in lost if behind[name, SOA].fault is Fault.DEAD]
    return {
        **unanswered,
        **{name: results[each.zone] for name, each in found.items()},
        **_dead(dead, end),
    }


# --- Asking ---


def _ask_all(whom: Iterable[Servers], end: float) -> dict[str, Zone | Unanswered]:
    zones = {each.zone: each for each in whom}
    sent = {
        zone: {Query(server.at, zone, SOA): server for server in each.servers}
        for zone, each in zones.items()
    }
    answers = queries.ask(
        [each for of_zone in sent.values() for each in of_zone], end - clock.monotonic()
    )
    return {zone: _result(each, sent[zone], answers) for zone, each in zones.items()}


def _result(servers: Servers, sent: Mapping[Query, Server], answers: Answers) -> Zone | Unanswered:
    heard = {server: answers.got[asked] for asked, server in sent.items() if asked in answers.got}
    said = {server: _shortcoming(message) for server, message in heard.items()}
    serials = {str(server): _serial(heard[server]) for server, why in said.items() if not why}
    if not serials and not answers.no_time.isdisjoint(sent):
        return Unanswered(
            servers.zone,
            "SOA",
            _(
                "The time was too short to ask the name servers of %(zone)s. Try again later.",
                zone=servers.zone,
            ),
        )
    return Zone(
        servers.zone,
        serials,
        lame=tuple(server.saying(why) for server, why in said.items() if why),
        silent=_silent(
            {asked: server for asked, server in sent.items() if server not in heard},
            heard,
            answers,
        ),
        skipped=servers.skipped,
        origins=frozenset(_origin(heard[server]) for server, why in said.items() if not why),
    )


def _shortcoming(message: dns.message.Message) -> str:
    """Return why an answer is not authoritative for the zone. Return "" when it is."""
    if message.rcode() != dns.rcode.NOERROR:
        return _("answers %(rcode)s", rcode=dns.rcode.to_text(message.rcode()))
    if not message.flags & dns.flags.AA:
        return _("not authoritative")
    return (
        "" if any(rrset.rdtype == SOA for rrset in message.answer) else _("has no SOA record of it")
    )


def _serial(message: dns.message.Message) -> int:
    return next(int(rrset[0].serial) for rrset in message.answer if rrset.rdtype == SOA)


def _origin(message: dns.message.Message) -> str:
    return next(
        f"{rrset[0].mname} {rrset[0].rname}".lower()
        for rrset in message.answer
        if rrset.rdtype == SOA
    )


def _silent(
    unheard: Mapping[Query, Server], heard: Collection[Server], answers: Answers
) -> tuple[str, ...]:
    """Return the labels of the servers that were asked and did not answer.

    An address family without a route is ignored for a server that answers over the other family.
    """
    names = {server.name for server in heard}
    return tuple(
        str(server)
        for asked, server in unheard.items()
        if asked not in answers.no_time
        and not (asked.server in answers.no_route and server.name in names)
    )


def _doubted(results: Mapping[str, Zone | Unanswered], end: float) -> dict[str, Zone | Unanswered]:
    """Set `fault` in the zones without any authoritative server.

    The resolvers are asked for a name that they cannot have cached. They may reach servers that
    this machine does not reach.
    """
    deserted = [each for each in results.values() if isinstance(each, Zone) and not each.serials]
    questions = {each.name: fresh(each.name) for each in deserted}
    behind = doubts(questions.values(), end)
    return {
        **results,
        **{each.name: replace(each, fault=behind[questions[each.name]].fault) for each in deserted},
    }


# --- Delegations that lead nowhere ---


def _dead(names: Sequence[str], end: float) -> dict[str, Zone | Unanswered]:
    """Check the delegated servers of names for which the resolvers find no server."""
    cuts = _cuts(names, end) if names else {}
    results = _ask_all([cut.servers for cut in cuts.values()], end)
    found = {name: results[cut.servers.zone] for name, cut in cuts.items()}
    return {
        name: replace(each, fault=Fault.DEAD, above=cuts[name].above)
        if isinstance(each, Zone)
        else each
        for name, each in found.items()
    }


class Referral(NamedTuple):
    """A delegation in the zone above: the zone's hosts, with the addresses in the same answer."""

    zone: str
    glue: dict[str, list[str]]


class Cut(NamedTuple):
    """The delegated servers of a zone, and the zone above that delegates it."""

    above: str
    servers: Servers


def _cuts(names: Sequence[str], end: float) -> dict[str, Cut]:
    """Return the delegated servers of names for which the resolvers find no server.

    The nearest zone above that the resolvers do find is asked for the delegation.
    """
    parents = {above for name in names for above in suffixes(name, shortest=1)[1:]}
    whom = resolver.servers_of_all(parents, end - clock.monotonic())
    nearest = {name: servers for name in names if (servers := _nearest(name, whom))}
    referrals = _referrals(nearest, end)
    unknown = {
        host
        for each in referrals.values()
        for host, addresses in each.glue.items()
        if not addresses
    }
    found = resolver.addresses_of(unknown, end)
    cuts = {}
    for name, (zone, glue) in referrals.items():
        hosts = {host: addresses or found[host] for host, addresses in glue.items()}
        cuts[name] = Cut(nearest[name].zone, resolver.servers_at(zone, hosts))
    return cuts


def _nearest(name: str, whom: Mapping[str, Servers | Trouble]) -> Servers | None:
    for above in suffixes(name, shortest=1)[1:]:
        servers = whom[above]
        if isinstance(servers, Servers):
            return servers
    return None


def _referrals(nearest: Mapping[str, Servers], end: float) -> dict[str, Referral]:
    """Return the delegation of each name, if the zone above has one.

    At most MOST_ASKED_ABOVE servers of that zone are asked.
    """
    sent = {
        name: [Query(each.at, name, NS) for each in nearest[name].servers[:MOST_ASKED_ABOVE]]
        for name in nearest
    }
    answers = queries.ask(
        [each for of_name in sent.values() for each in of_name], end - clock.monotonic()
    )
    heard = {
        name: [answers.got[each] for each in sent[name] if each in answers.got] for name in nearest
    }
    found = {name: _referral(name, above.zone, heard[name]) for name, above in nearest.items()}
    return {name: each for name, each in found.items() if each}


def _referral(name: str, above: str, messages: Iterable[dns.message.Message]) -> Referral | None:
    """Return the first delegation of the name in the messages.

    `above` is the zone whose servers were asked.
    """
    for message in messages:
        for rrset in message.authority:
            zone = text_of(rrset.name)
            if rrset.rdtype == NS and zone != above and is_inside(name, zone):
                return Referral(
                    zone, {text_of(each.target): _glue(message, each.target) for each in rrset}
                )
    return None


def _glue(message: dns.message.Message, host: dns.name.Name) -> list[str]:
    found = [
        rrset for rrset in message.additional if rrset.rdtype in ADDRESSES and rrset.name == host
    ]
    return [each.address for rrset in found for each in rrset]
