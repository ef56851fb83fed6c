"""Follow the CNAMEs of a challenge to the name at which its TXT record must be written.

The CNAME of a wildcard is not followed. The questions are sent in batches. All names of a
certificate together take as many round trips as one name.
"""

import re
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import dns.name
import dns.rdatatype

from certctrl import clock
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble
from dnsclient.resolver import Reply, ask_holders, text_of, unknown

CHALLENGE = "_acme-challenge"
LONGEST_PATH = 10  # CNAMEs
LONGEST_NAME = 253  # characters
WRITABLE = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
CNAME = dns.rdatatype.CNAME


@dataclass(frozen=True)
class CnamePath:
    """The names that CNAMEs lead through. The first is the challenge's own name.

    `wildcard` is the target of a wildcard's CNAME at the last name. It is not followed, because a
    wildcard is not meant for challenges.
    `trouble` says why the path has no end: dns_cname_loop, dns_cname_target, dns_lookup_failed.
    """

    names: tuple[str, ...]
    wildcard: str = ""
    trouble: Trouble | None = None

    @property
    def final(self) -> str:
        """Return the name at which the TXT record must be written, if `trouble` is None."""
        return self.names[-1]

    @property
    def is_unknown(self) -> bool:
        """Return whether the look-up failed, so that the CNAMEs may well be right."""
        return self.trouble is not None and self.trouble.code == "dns_lookup_failed"


def challenge_of(name: str) -> str:
    """Return `_acme-challenge.<name>` in lower case.

    A name that begins with this label is returned without a second one.
    """
    start = text_of(dns.name.from_text(name))
    return start if start.startswith(f"{CHALLENGE}.") else f"{CHALLENGE}.{start}"


def follow(names: Collection[str], seconds: float) -> dict[str, CnamePath]:
    """Return the CnamePath of the challenge of each name, within `seconds`.

    A CNAME that a random sibling also has belongs to a wildcard. It is not followed. Failures are
    in `CnamePath.trouble`.
    """
    end = clock.monotonic() + seconds
    paths = {name: CnamePath((challenge_of(name),)) for name in names}
    going = list(paths)
    while going:
        hops = _hop({paths[name].final for name in going}, end)
        longer = {name: _extended(paths[name], hops[paths[name].final]) for name in going}
        going = [name for name in going if longer[name].names != paths[name].names]
        paths |= longer
    return paths


@dataclass(frozen=True)
class _Hop:
    """The CNAME at one name, if there is one.

    `why` is set where the look-up failed.
    """

    target: str = ""
    is_wildcard: bool = False
    why: str = ""


def _hop(names: Iterable[str], end: float) -> dict[str, _Hop]:
    """Return the CNAME at each name. For a name that has one, a random sibling is looked up too."""
    hops = _ask(set(names), end)
    siblings = {name: _sibling(name) for name, hop in hops.items() if hop.target}
    others = _ask(set(siblings.values()), end)
    for name, sibling in siblings.items():
        other = others[sibling]
        hops[name] = (
            other
            if other.why
            else replace(hops[name], is_wildcard=other.target == hops[name].target)
        )
    return hops


def _sibling(name: str) -> str:
    """Return a random name with the same parent, which does not exist.

    The random label is shorter where the parent is long.
    """
    above = name.partition(".")[2]
    return f"{secrets.token_hex(8)[: LONGEST_NAME - len(above) - 1]}.{above}"


def _ask(names: Collection[str], end: float) -> dict[str, _Hop]:
    replies = ask_holders([(name, CNAME) for name in names], end) if names else {}
    return {name: _read(replies[name, CNAME], name) for name in names}


def _read(reply: Reply, name: str) -> _Hop:
    if isinstance(reply, str):
        return _Hop(why=reply)
    owner = dns.name.from_text(name)
    found = [rrset for rrset in reply.answer if rrset.rdtype == CNAME and rrset.name == owner]
    return _Hop(text_of(found[0][0].target)) if found else _Hop()


def _extended(path: CnamePath, hop: _Hop) -> CnamePath:
    start = path.names[0]
    target = hop.target
    if hop.why:
        return replace(
            path,
            trouble=unknown(
                _("The CNAMEs of %(start)s could not be looked up", start=start), hop.why
            ),
        )
    if hop.is_wildcard:
        return replace(path, wildcard=target)
    if not target:
        return path
    if target in path.names or len(path.names) > LONGEST_PATH:
        shown = " → ".join([*path.names, target][:4])
        what = _(
            "The CNAMEs of %(start)s lead in a circle, or to more than %(longest_path)s "
            "others (%(shown)s). Fix them.",
            start=start,
            longest_path=LONGEST_PATH,
            shown=shown,
        )
        return replace(path, trouble=Trouble("dns_cname_loop", what))
    if not WRITABLE.fullmatch(target):
        what = _(
            "%(final)s is a CNAME to a name that can have no TXT record. Fix it.", final=path.final
        )
        return replace(path, trouble=Trouble("dns_cname_target", what))
    return replace(path, names=(*path.names, target))
