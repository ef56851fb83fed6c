"""Find out whether a TXT record is visible in the DNS.

`look` asks every authoritative server once, for many records. It does not wait for a record to
appear. `verdict` judges a look by the age of the record. `dnsclient.cnames` finds the name of a
record, and `dnsclient.resolver` finds its servers.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from certctrl import clock
from certctrl.sentences import Sentence, first_of, joined
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble
from dnsclient import queries
from dnsclient.queries import KNOWN, Answers, Query
from dnsclient.resolver import (
    NO_TIME,
    NotThere,
    Server,
    Servers,
    presumed_servers_of_all,
    resolvers,
    servers_of,
    servers_of_all,
)
from dnsproviders.models import DnsCredential, TxtRecord

__all__ = [
    "Asked",
    "Look",
    "Servers",
    "Verdict",
    "look",
    "server_of",
    "servers_of",
    "verdict",
]

# Until this age of a record, a silent server counts, because it may only be slow.
SILENCE_COUNTS = timedelta(seconds=60)
# How long most providers take to publish a record. A resolver that is asked earlier caches the
# negative answer. Longer waiting is of no use, because resolvers will not find the zone later.
PUBLISHING = timedelta(seconds=10)
# Until this age of a record, every server that answers must show it. A secondary server that is
# later is broken, and the CA asks other servers too.
DISAGREEMENT_COUNTS = timedelta(minutes=5)
MOST_NAMED = 4  # servers in one sentence
# Seconds. Resolvers cache a negative answer for no longer (RFC 2308, section 5).
LONGEST_DENIAL = 3 * 3600
# Part of a look's time that is kept for the resolvers, in case no server answers.
FOR_RESOLVERS = 0.25
FINDING_SERVERS = 0.5  # most of the other time, for finding the servers

Check = DnsCredential.PropagationCheck
TXT = dns.rdatatype.TXT
SILENT = _("silent")
NO_ROUTE = _("no route from here")


class Asked(Enum):
    """The servers that a look asked."""

    SERVERS = "the authoritative servers"
    RESOLVERS = "the resolvers, as the credential says"
    INSTEAD = (
        "the resolvers, because no authoritative server can be asked, or none answers this machine"
    )
    NOBODY = "no server, as the credential says"


@dataclass(frozen=True)
class Look:
    """The result of one look at one record.

    - `shown`: how many servers have the value.
    - `missing`: the servers that answered without the value.
    - `silent`: the servers that gave no usable answer.
    - `skipped`: the servers that cannot be asked. They have no address, or one to which requests
      are not allowed.
    - `note`: why the look is not complete.
    - `instead_after`: the resolvers are asked once the record has this age. It is set only when no
      authoritative server is known.
    - `instead`: why the resolvers were asked instead.
    - `denied`: seconds for which resolvers will repeat a cached negative answer.
    - `denial`: seconds for which a resolver may cache a negative answer of the zone (RFC 2308,
      section 5).
    - `ttl`: TTL of the record set in seconds, as in the answers. It is 0 when no answer shows it.
    - `showing`: the servers that have the value.
    """

    shown: int
    missing: tuple[str, ...]
    silent: tuple[str, ...]
    note: str = ""
    asked: Asked = Asked.SERVERS
    zone: str = ""
    denied: int = 0
    denial: int = 0
    skipped: tuple[str, ...] = ()
    instead_after: timedelta | None = None
    instead: str = ""
    ttl: int = 0
    showing: tuple[str, ...] = ()

    @property
    def answered(self) -> int:
        return self.shown + len(self.missing)


@dataclass(frozen=True)
class Verdict:
    """The judgment on a look.

    `what` is a sentence that stays the same while nothing changes. `nowhere` is true when servers
    answered and none has the value. `denied` is as in Look, in seconds.
    """

    visible: bool
    what: str
    nowhere: bool
    denied: int = 0


# --- Looking ---


def look(records: Sequence[TxtRecord], seconds: float | None = None) -> dict[int, Look]:
    """Ask once for every record at the same time. Return a Look for each primary key.

    Ends within `seconds` and within `clock.limit()`. `Look.note` has the failure of a record.
    """
    seconds = clock.time_left() if seconds is None else min(seconds, clock.remaining())
    end = clock.monotonic() + seconds
    by_check: defaultdict[str, list[TxtRecord]] = defaultdict(list)
    for record in _owners_in_rotation(records):
        by_check[record.credential.propagation_check].append(record)
    looks = {record.pk: Look(1, (), (), asked=Asked.NOBODY) for record in by_check[Check.OFF]}
    looks |= _ask_servers(by_check[Check.AUTHORITATIVE], end - seconds * FOR_RESOLVERS)
    deserted = [
        record for record in by_check[Check.AUTHORITATIVE] if _is_deserted(record, looks[record.pk])
    ]
    looks |= _ask_resolvers(by_check[Check.RECURSIVE], deserted, looks, end)
    return looks


def _owners_in_rotation(records: Iterable[TxtRecord]) -> Iterable[TxtRecord]:
    """Return the records in the order in which they are asked for, one of each owner in rotation.

    When the time runs out, the owners with the most records miss the most answers.
    """
    of_owner: defaultdict[int, list[TxtRecord]] = defaultdict(list)
    for record in records:
        of_owner[record.credential.owner_id].append(record)
    return queries.round_robin(of_owner.values())


def _ask_servers(records: Sequence[TxtRecord], end: float) -> dict[int, Look]:
    presumed = _ask_presumed_servers(records, end)
    records = [record for record in records if record.pk not in presumed]
    if not records:
        return presumed
    left = end - clock.monotonic()
    whom = servers_of_all([record.name for record in records], left * FINDING_SERVERS)
    looks = presumed | {
        record.pk: Look(0, (), (), note=servers.what, instead_after=_instead_after(servers))
        for record in records
        if isinstance(servers := whom[record.name], Trouble)
    }
    known = {name: servers for name, servers in whom.items() if isinstance(servers, Servers)}
    return looks | _ask([record for record in records if record.name in known], known, end)


def _ask_presumed_servers(records: Sequence[TxtRecord], end: float) -> dict[int, Look]:
    """Ask the servers of the zone in which a record is likely to be.

    Return a Look only for a record that no server shows, if a server confirms the zone. So a record
    that does not show takes no question for its zone. The caller looks at all others again.
    """
    left = end - clock.monotonic()
    whom = presumed_servers_of_all([record.name for record in records], left * FINDING_SERVERS)
    records = [record for record in records if record.name in whom]
    if not records:
        return {}
    sent = _questions(records, whom)
    answers = queries.ask(_all_of(sent), end - clock.monotonic())
    return {
        record.pk: _seen(record, sent[record.name], whom[record.name], answers)
        for record in records
        if _is_confirmed(whom[record.name].zone, sent[record.name], answers)
    }


def _is_confirmed(zone: str, sent: Sequence[tuple[Server, Query]], answers: Answers) -> bool:
    """Return whether a server says that the name is in the zone, and none says anything else."""
    said = [each for _, each in sent if each in answers.got and answers.got[each].rcode() in KNOWN]
    return {answers.zones.get(each) for each in said} == {zone}


def _instead_after(trouble: Trouble) -> timedelta | None:
    """Return from which age on the resolvers are asked for a record without known servers.

    Return None when the look-up of the servers only ran out of time.
    """
    if isinstance(trouble, NotThere):
        return PUBLISHING
    return None if NO_TIME in trouble.what else SILENCE_COUNTS


def _is_deserted(record: TxtRecord, seen: Look) -> bool:
    """Return whether to ask the resolvers instead of the servers.

    Return true when no server answers in time, because port 53 may be closed from here. Return true
    also when no server is known, because some resolvers show TXT records but no SOA or NS records.
    """
    age = clock.now() - (record.intent_at or clock.now())
    if seen.note:
        return seen.instead_after is not None and age >= seen.instead_after
    if seen.skipped and not seen.silent and not seen.answered:
        # No server can be asked, so that waiting is of no use.
        return True
    return age >= SILENCE_COUNTS and not seen.answered


def _ask_resolvers(
    recursive: Sequence[TxtRecord],
    deserted: Sequence[TxtRecord],
    looks: Mapping[int, Look],
    end: float,
) -> dict[int, Look]:
    records = [*recursive, *deserted]
    if not records:
        return {}
    try:
        resolving = Servers("", tuple(Server("", each) for each in resolvers()))
    except Trouble as trouble:
        return {record.pk: Look(0, (), (), note=trouble.what) for record in records}
    seen = _ask(records, {record.name: resolving for record in records}, end, Asked.RESOLVERS)
    instead = {
        record.pk: replace(
            seen[record.pk],
            asked=Asked.INSTEAD,
            silent=looks[record.pk].silent,
            skipped=looks[record.pk].skipped,
            zone=looks[record.pk].zone,
            instead=looks[record.pk].note,
        )
        for record in deserted
    }
    return seen | instead


def _ask(
    records: Iterable[TxtRecord],
    whom: Mapping[str, Servers],
    end: float,
    asked: Asked = Asked.SERVERS,
) -> dict[int, Look]:
    sent = _questions(records, whom, recurse=asked is not Asked.SERVERS)
    answers = queries.ask(_all_of(sent), end - clock.monotonic())
    return {
        record.pk: _seen(record, sent[record.name], whom[record.name], answers, asked)
        for record in records
    }


def _questions(
    records: Iterable[TxtRecord], whom: Mapping[str, Servers], *, recurse: bool = False
) -> dict[str, list[tuple[Server, Query]]]:
    """Return the question to each server, by the name of the record."""
    return {
        record.name: [
            (server, Query(server.at, record.name, TXT, recurse))
            for server in whom[record.name].servers
        ]
        for record in records
    }


def _all_of(sent: Mapping[str, Sequence[tuple[Server, Query]]]) -> Iterable[Query]:
    return (each for pairs in sent.values() for _, each in pairs)


def _seen(
    record: TxtRecord,
    sent: Sequence[tuple[Server, Query]],
    servers: Servers,
    answers: Answers,
    asked: Asked = Asked.SERVERS,
) -> Look:
    """Return the Look of one record, from the answers of its servers."""
    heard = set()
    useless = []
    missing = []
    note = ""
    denied = 0
    denial = 0
    ttl = 0
    for server, each in sent:
        if each in answers.no_time:
            note = _(
                "the time was too short to ask every server for %(name)s; they are asked again",
                name=record.name,
            )
            continue
        values, why = _read(answers, each)
        ttl = max(ttl, _ttl(answers.got.get(each)))
        if record.value in values:
            heard.add(server)
        elif why:
            useless.append((server, why))
        else:
            missing.append(server)
            if asked is not Asked.SERVERS:
                denied, denial = max((denied, denial), _denial(answers.got[each]))
    names = {server.name for server in (*heard, *missing)}
    # An address family without a route is ignored for a server that answers over the other family.
    silent = [
        _label(server, why)
        for server, why in useless
        if not (why == NO_ROUTE and server.name in names)
    ]
    return Look(
        len(heard),
        tuple(map(str, missing)),
        tuple(silent),
        note,
        asked=asked,
        zone=servers.zone,
        denied=denied,
        denial=denial,
        skipped=servers.skipped,
        ttl=ttl,
        showing=tuple(sorted(map(str, heard))),
    )


def _read(answers: Answers, asked: Query) -> tuple[frozenset[str], str]:
    """Return the values in an answer, and why the answer is not usable.

    A truncated answer has both. Its values count, although others may be missing.
    """
    message = answers.got.get(asked)
    if message is None:
        return frozenset(), NO_ROUTE if asked.server in answers.no_route else SILENT
    if message.rcode() not in KNOWN:
        return frozenset(), _("answers %(rcode)s", rcode=dns.rcode.to_text(message.rcode()))
    if not (asked.recurse or message.flags & dns.flags.AA):
        return frozenset(), _("not authoritative")
    return _values(message), _("no answer over TCP") if message.flags & dns.flags.TC else ""


def _values(message: dns.message.Message) -> frozenset[str]:
    return frozenset(
        b"".join(rdata.strings).decode("ascii", "replace")
        for rrset in message.answer
        if rrset.rdtype == TXT
        for rdata in rrset
    )


def _ttl(message: dns.message.Message | None) -> int:
    """Return the TTL of the TXT records in seconds. Return 0 without TXT records."""
    return (
        max((int(each.ttl) for each in message.answer if each.rdtype == TXT), default=0)
        if message
        else 0
    )


def _denial(message: dns.message.Message) -> tuple[int, int]:
    """Return how long a resolver repeats a negative answer: from now on, and in all.

    Both are in seconds. Both are 0 when the answer has no SOA record.
    """
    for rrset in message.authority:
        if rrset.rdtype == dns.rdatatype.SOA:
            denial = min(rrset[0].minimum, LONGEST_DENIAL)
            return min(rrset.ttl, denial), denial
    return 0, 0


def _label(server: Server, why: str) -> str:
    return str(server) if why == SILENT else server.saying(why)


# --- Judging ---


def verdict(record: TxtRecord, look: Look, age: timedelta, deaf: Collection[str] = ()) -> Verdict:
    """Judge whether the record is visible enough to be validated.

    `age` is the time since the intent to write the record. At least one server must show it.

    - At first, every server must show the record.
    - After 60 s, silent servers no longer count.
    - After 5 min, half of the servers that answer are enough.

    Servers without an address never count. `deaf` has the servers that did not answer in the
    preflight. When all silent servers are among them, they do not count either.
    """
    if look.asked is Asked.NOBODY:
        return Verdict(
            True, _("propagation was not checked, as the DNS credential says"), nowhere=False
        )
    if look.note:
        return Verdict(False, look.note, nowhere=False)
    silence_counts = age < SILENCE_COUNTS and look.asked is not Asked.INSTEAD
    silence_counts = silence_counts and not all(server_of(label) in deaf for label in look.silent)
    if look.shown and not look.missing and not (look.silent and silence_counts):
        return Verdict(True, _shown_by_all(look), nowhere=False)
    if age >= DISAGREEMENT_COUNTS and look.shown and 2 * look.shown >= look.answered:
        return Verdict(True, _shown_by_half(look), nowhere=False)
    hidden = _hidden(record, look, silence_counts)
    return Verdict(False, hidden, nowhere=bool(look.missing and not look.shown), denied=look.denied)


def _who(look: Look, count: int) -> str:
    """Return the servers for a sentence, for example "3 name servers of example.com"."""
    if look.asked is not Asked.SERVERS:
        return _("1 resolver") if count == 1 else _("%(count)s resolvers", count=count)
    if not look.zone:
        return _("1 name server") if count == 1 else _("%(count)s name servers", count=count)
    if count == 1:
        return _("1 name server of %(zone)s", zone=look.zone)
    return _("%(count)s name servers of %(zone)s", count=count, zone=look.zone)


def _all(look: Look, count: int) -> str:
    if count != 1:
        return _("all %(servers)s", servers=_who(look, count))
    if look.asked is not Asked.SERVERS:
        return _("the resolver")
    return _("the name server of %(zone)s", zone=look.zone) if look.zone else _("the name server")


def _listed(labels: Sequence[str]) -> str:
    return first_of(labels, MOST_NAMED)


def server_of(label: str) -> str:
    """Return the label of a server without its answer. A host that is not asked gave none."""
    if not isinstance(label, Sentence) or "at" not in label.parts:
        return label
    name, at = label.parts.get("name"), label.parts["at"]
    return f"{name} ({at})" if name else str(at)


def _deserted(look: Look) -> str:
    if look.instead:
        return _("the authoritative servers could not be asked (%(why)s)", why=look.instead)
    listed = _listed((*look.silent, *look.skipped))
    if not look.zone:
        return _("no name server answers here (%(listed)s)", listed=listed)
    return _("no name server of %(zone)s answers here (%(listed)s)", zone=look.zone, listed=listed)


def _shown_by_all(look: Look) -> str:
    servers = _all(look, look.shown)
    if look.asked is Asked.INSTEAD:
        return _("shown by %(servers)s; %(deserted)s", servers=servers, deserted=_deserted(look))
    others = (*look.silent, *look.skipped)
    if not others:
        return _("shown by %(servers)s", servers=servers)
    if look.shown == 1:
        return _(
            "shown by %(servers)s that answers; not counted: %(listed)s",
            servers=servers,
            listed=_listed(others),
        )
    return _(
        "shown by %(servers)s that answer; not counted: %(listed)s",
        servers=servers,
        listed=_listed(others),
    )


def _shown_by_half(look: Look) -> str:
    return _(
        "shown by %(count)s of the %(servers)s that answer, which is enough after 5 minutes; "
        "not by %(listed)s",
        count=look.shown,
        servers=_who(look, look.answered),
        listed=_listed(look.missing),
    )


def _hidden(record: TxtRecord, look: Look, silence_counts: bool) -> str:
    """Return a sentence with the servers that do not show the record, and the silent ones."""
    name, missing = record.name, len(look.missing)
    if look.asked is Asked.INSTEAD:
        resolvers = _("the resolvers do not either")
        if missing:
            resolvers = _("the resolvers do not show %(name)s either", name=name)
        what = _("%(deserted)s, and %(resolvers)s", deserted=_deserted(look), resolvers=resolvers)
        return _while_denied(look, what)
    total = look.answered + len(look.silent)
    if not look.answered:
        useless = look.silent or look.skipped
        servers, listed = _all(look, len(useless)), _listed(useless)
        if len(useless) == 1:
            return _(
                "%(servers)s has no usable answer for %(name)s: %(listed)s",
                servers=servers,
                name=name,
                listed=listed,
            )
        return _(
            "%(servers)s have no usable answer for %(name)s: %(listed)s",
            servers=servers,
            name=name,
            listed=listed,
        )
    said = []
    if missing == 1:
        said.append(
            _(
                "1 of %(servers)s does not show %(name)s yet: %(listed)s",
                servers=_who(look, total),
                name=name,
                listed=_listed(look.missing),
            )
        )
    elif missing:
        said.append(
            _(
                "%(count)s of %(servers)s do not show %(name)s yet: %(listed)s",
                count=missing,
                servers=_who(look, total),
                name=name,
                listed=_listed(look.missing),
            )
        )
    if look.silent and silence_counts:
        said.append(
            _(
                "no usable answer for %(name)s from %(listed)s",
                name=name,
                listed=_listed(look.silent),
            )
        )
    return _while_denied(look, joined("; ", said))


def _while_denied(look: Look, what: str) -> str:
    if not look.denied:
        return what
    return _(
        "%(what)s; resolvers that were asked too early may repeat that answer for %(denial)s s "
        "(SOA minimum of the zone)",
        what=what,
        denial=look.denial,
    )
