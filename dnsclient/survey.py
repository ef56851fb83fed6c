"""Collect from the DNS everything that a CA will see at the names of a certificate.

It collects the CAA records, the CNAME paths of the challenges, and the answers of the zones' name
servers. The number of batches does not grow with the number of names. This module only reads.
`issuance.preflight` judges.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import dns.rdatatype

from certctrl import clock
from certctrl.sentences import sentence as _
from dnsclient import cnames, resolver
from dnsclient.cnames import CnamePath
from dnsclient.diagnosis import Doubt, Fault, Unanswered, doubts
from dnsclient.names import suffixes
from dnsclient.nameservers import Zone, zones_of
from dnsclient.resolver import Question, Reply, text_of

__all__ = [
    "CAARecord",
    "CaaPolicy",
    "CnamePath",
    "Doubt",
    "Fault",
    "Survey",
    "Unanswered",
    "Zone",
    "survey",
]

CAA = dns.rdatatype.CAA


class CAARecord(NamedTuple):
    """A CAA record (RFC 8659, section 4.1). The tag is in lower case."""

    flags: int
    tag: str
    value: str

    def __str__(self) -> str:
        return f'{self.flags} {self.tag} "{self.value}"'


@dataclass(frozen=True)
class CaaPolicy:
    """The CAA records that count for a name (RFC 8659, section 3).

    They are those of the name, or of the nearest name above it that has any. `owner` is the name
    that holds the records, after CNAMEs.
    """

    owner: str = ""
    records: tuple[CAARecord, ...] = ()


@dataclass(frozen=True)
class Survey:
    """The result of a survey.

    The keys of `policies` and `paths` are the names. The keys of `zones` are the last names of
    the paths. `silence` says why no question was answered.
    """

    policies: Mapping[str, CaaPolicy | Unanswered] = field(default_factory=dict)
    paths: Mapping[str, CnamePath] = field(default_factory=dict)
    zones: Mapping[str, Zone | Unanswered] = field(default_factory=dict)
    silence: str = ""


def survey(names: Collection[str], seconds: float) -> Survey:
    """Ask about these names, which are without `*.`. End within `seconds`."""
    began = clock.monotonic()
    end = began + seconds
    upwards = dict.fromkeys(suffix for name in names for suffix in suffixes(name, shortest=1))
    replies = resolver.resolve_until(end, [(suffix, CAA) for suffix in upwards])
    silent = [reply for reply in replies.values() if isinstance(reply, str)]
    if len(silent) == len(replies):
        return Survey(silence=silent[0])
    paths = cnames.follow(names, end - clock.monotonic())
    zones = zones_of(
        {path.final for path in paths.values() if not path.trouble or path.is_unknown}, end, began
    )
    return Survey(_policies(names, replies, end), paths, zones)


def _policies(
    names: Iterable[str], replies: Mapping[Question, Reply], end: float
) -> dict[str, CaaPolicy | Unanswered]:
    found = {name: _policy(name, replies) for name in names}
    failed = {each.name for each in found.values() if isinstance(each, Unanswered)}
    behind = doubts([(name, CAA) for name in failed], end)
    return {
        name: replace(each, doubt=behind[each.name, CAA]) if isinstance(each, Unanswered) else each
        for name, each in found.items()
    }


def _policy(name: str, replies: Mapping[Question, Reply]) -> CaaPolicy | Unanswered:
    for suffix in suffixes(name, shortest=1):
        reply = replies[suffix, CAA]
        if isinstance(reply, str):
            # A failure at a top-level domain is ignored, because some resolvers do not know it.
            # A top-level domain forbids nothing.
            if "." in suffix:
                return Unanswered(
                    suffix,
                    "CAA",
                    _(
                        "The CAA records of %(suffix)s could not be looked up: %(reply)s.",
                        suffix=suffix,
                        reply=reply,
                    ),
                )
            continue
        for rrset in reply.answer:
            if rrset.rdtype == CAA:
                return CaaPolicy(text_of(rrset.name), tuple(map(_record, rrset)))
    return CaaPolicy()


def _record(rdata: Any) -> CAARecord:
    return CAARecord(
        rdata.flags,
        rdata.tag.decode("ascii", "replace").lower(),
        rdata.value.decode("utf-8", "replace"),
    )
