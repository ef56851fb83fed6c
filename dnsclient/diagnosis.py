"""Find out why the resolvers did not answer a question.

The reason is one of these: DNSSEC does not validate, the zone's servers are dead, or unknown.
"""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import dns.rcode
import dns.rdatatype

from certctrl import clock
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble
from dnsclient import queries, resolver
from dnsclient.queries import KNOWN, Address, Answers, Query
from dnsclient.resolver import Question


class Fault(Enum):
    """Why the resolvers do not answer a question."""

    BOGUS = _("SERVFAIL, and an answer with DNSSEC checking disabled")
    DEAD = _("SERVFAIL, with DNSSEC checking disabled too")
    UNKNOWN = _("no clear result")


class Doubt(NamedTuple):
    """The result of a diagnosis.

    `fault` is None where the resolvers do answer. `zone` is set with BOGUS only: the signatures of
    this zone do not validate.
    """

    fault: Fault | None
    zone: str = ""


UNKNOWN = Doubt(Fault.UNKNOWN)
DEAD = Doubt(Fault.DEAD)


@dataclass(frozen=True)
class Unanswered:
    """A question that the resolvers did not answer.

    `kind` is the record type. `what` is a sentence for people. `doubt` is the reason.
    """

    name: str
    kind: str
    what: str
    doubt: Doubt = UNKNOWN


def doubts(questions: Collection[Question], end: float) -> dict[Question, Doubt]:
    """Ask every resolver once more, with DNSSEC checking and without. Return a Doubt for each.

    Ends by `end`, in seconds of the monotonic clock.
    """
    if not questions:
        return {}
    servers = _resolvers()
    sent = [
        _query(server, question, unchecked)
        for question in questions
        for server in servers
        for unchecked in (0, 1)
    ]
    answers = queries.ask(sent, end - clock.monotonic())
    found = {
        question: _gravest([_doubt(question, server, answers) for server in servers])
        for question in questions
    }
    alive = _top_levels_that_answer(
        {_top(name) for (name, _), doubt in found.items() if doubt == DEAD}, servers, end
    )
    return {
        each: UNKNOWN if doubt == DEAD and _top(each[0]) not in alive else doubt
        for each, doubt in found.items()
    }


def _top(name: str) -> str:
    return name.rpartition(".")[2]


def _top_levels_that_answer(
    names: Collection[str], servers: Sequence[Address], end: float
) -> set[str]:
    """Return the top-level domains about which the resolvers can still find out something new.

    When they cannot, the resolvers themselves have no connection. No zone below is then at fault.
    """
    sent = {
        name: [Query(server, *fresh(name), recurse=True) for server in servers] for name in names
    }
    got = queries.ask(
        [each for of_name in sent.values() for each in of_name], end - clock.monotonic()
    ).got
    answer = {
        name: [got[each].rcode() for each in of_name if each in got]
        for name, of_name in sent.items()
    }
    return {name for name, codes in answer.items() if any(code in KNOWN for code in codes)}


def fresh(name: str, rdtype: dns.rdatatype.RdataType = dns.rdatatype.SOA) -> Question:
    """Return a question about a random name below `name`, which no resolver has cached."""
    return f"{secrets.token_hex(8)}.{name}", rdtype


def _resolvers() -> list[Address]:
    try:
        return resolver.resolvers()
    except Trouble:
        return []


def _query(server: Address, question: Question, unchecked: int) -> Query:
    return Query(server, *question, recurse=True, unchecked=bool(unchecked))


def _doubt(question: Question, server: Address, answers: Answers) -> Doubt:
    checked, unchecked = (
        answers.got.get(_query(server, question, unchecked)) for unchecked in (0, 1)
    )
    if checked and checked.rcode() in KNOWN:
        return Doubt(None)
    if not checked or not unchecked or checked.rcode() != dns.rcode.SERVFAIL:
        return UNKNOWN
    if unchecked.rcode() in KNOWN:
        return Doubt(Fault.BOGUS, resolver.soa_owner(unchecked, question[0]) or question[0])
    return Doubt(Fault.DEAD if unchecked.rcode() == dns.rcode.SERVFAIL else Fault.UNKNOWN)


def _gravest(found: Sequence[Doubt]) -> Doubt:
    """Return the most serious Doubt.

    CAs validate DNSSEC. A resolver that validates therefore outweighs one that does not.
    """
    for fault in (Fault.BOGUS, None, Fault.DEAD):
        for doubt in found:
            if doubt.fault is fault:
                return doubt
    return UNKNOWN
