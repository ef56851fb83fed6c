"""Where a challenge's CNAMEs lead, and so where its TXT record must be written. A wildcard's CNAME is not followed.

Asked in batches: the names of a whole certificate cost as many round trips as one.
"""

import re
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import dns.name
import dns.rdatatype

from certctrl import clock
from certctrl.turns import Trouble
from dnsclient.resolver import Reply, ask_holders, text_of, unknown

CHALLENGE = "_acme-challenge"
LONGEST_CHAIN = 10  # CNAMEs
LONGEST_NAME = 253  # characters
WRITABLE = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
CNAME = dns.rdatatype.CNAME


@dataclass(frozen=True)
class Chain:
    """The names that a challenge's CNAMEs lead through, its own first.

    `wildcard` is where a wildcard's CNAME leads from the last one: it is meant for no challenge, and not followed.
    `trouble` says why the chain has no end: dns_cname_loop, dns_cname_target, dns_lookup_failed.
    """

    names: tuple[str, ...]
    wildcard: str = ""
    trouble: Trouble | None = None

    @property
    def final(self) -> str:
        """Where the TXT record must be written, when there is no trouble."""
        return self.names[-1]

    @property
    def is_unknown(self) -> bool:
        """Whether the resolvers did not tell, so that nothing is wrong with the CNAMEs as far as anybody knows."""
        return self.trouble is not None and self.trouble.code == "dns_lookup_failed"


def challenge_of(name: str) -> str:
    """`_acme-challenge.<name>`, in lower case; the name may carry that label already."""
    start = text_of(dns.name.from_text(name))
    return start if start.startswith(f"{CHALLENGE}.") else f"{CHALLENGE}.{start}"


def final_name(name: str) -> str:
    """Where the TXT record of a name's challenge must be written: `_acme-challenge.<name>`, or where its CNAMEs lead.

    A CNAME that a random sibling has too is a wildcard's, meant for no challenge, and not followed. Raises Trouble:
    dns_cname_loop, dns_cname_target, dns_lookup_failed.
    """
    chain = follow([name], clock.time_left())[name]
    if chain.trouble:
        raise chain.trouble
    return chain.final


def follow(names: Collection[str], seconds: float) -> dict[str, Chain]:
    """The same for many names at once: a chain for each, whatever resolvers do."""
    end = clock.monotonic() + seconds
    chains = {name: Chain((challenge_of(name),)) for name in names}
    going = list(chains)
    while going:
        hops = _hop({chains[name].final for name in going}, end)
        longer = {name: _extended(chains[name], hops[chains[name].final]) for name in going}
        going = [name for name in going if longer[name].names != chains[name].names]
        chains |= longer
    return chains


@dataclass(frozen=True)
class _Hop:
    """What stands at one name: nothing, a CNAME to `target`, a wildcard's CNAME, or `why` nobody knows."""

    target: str = ""
    is_wildcard: bool = False
    why: str = ""


def _hop(names: Iterable[str], end: float) -> dict[str, _Hop]:
    """What stands at each name; a random sibling is asked for where it is a CNAME."""
    hops = _look(set(names), end)
    siblings = {name: _sibling(name) for name, hop in hops.items() if hop.target}
    others = _look(set(siblings.values()), end)
    for name, sibling in siblings.items():
        other = others[sibling]
        hops[name] = (
            other
            if other.why
            else replace(hops[name], is_wildcard=other.target == hops[name].target)
        )
    return hops


def _sibling(name: str) -> str:
    """A random name beside this one, which nobody has; shorter where the name leaves no room."""
    rest = name.partition(".")[2]
    return f"{secrets.token_hex(8)[: LONGEST_NAME - len(rest) - 1]}.{rest}"


def _look(names: Collection[str], end: float) -> dict[str, _Hop]:
    replies = ask_holders([(name, CNAME) for name in names], end) if names else {}
    return {name: _read(replies[name, CNAME], name) for name in names}


def _read(reply: Reply, name: str) -> _Hop:
    if isinstance(reply, str):
        return _Hop(why=reply)
    owner = dns.name.from_text(name)
    found = [rrset for rrset in reply.answer if rrset.rdtype == CNAME and rrset.name == owner]
    return _Hop(text_of(found[0][0].target)) if found else _Hop()


def _extended(chain: Chain, hop: _Hop) -> Chain:
    start, target = chain.names[0], hop.target
    if hop.why:
        return replace(
            chain, trouble=unknown(f"Whether {start} is a CNAME could not be found out", hop.why)
        )
    if hop.is_wildcard:
        return replace(chain, wildcard=target)
    if not target:
        return chain
    if target in chain.names or len(chain.names) > LONGEST_CHAIN:
        shown = " → ".join([*chain.names, target][:4])
        what = f"The CNAMEs of {start} lead in a circle, or to more than {LONGEST_CHAIN} others ({shown}): mend them."
        return replace(chain, trouble=Trouble("dns_cname_loop", what))
    if not WRITABLE.fullmatch(target):
        what = f"{chain.final} is a CNAME to a name that no TXT record can be written at: mend it."
        return replace(chain, trouble=Trouble("dns_cname_target", what))
    return replace(chain, names=(*chain.names, target))
