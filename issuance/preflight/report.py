"""Findings, and their sentences."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from certctrl.sentences import first_of, joined
from certctrl.sentences import sentence as _

MOST_TOLD = 3  # findings in one text, and servers in one sentence


@dataclass(frozen=True)
class Finding:
    """A fault that the preflight found.

    `name` is a name of the certificate, and `record` is the record at fault. `what` says what is
    wrong and how to fix it. `fix` is the record to add, as in a zone file, where that is the fix. A
    finding that does not block is a warning, and the order goes on.
    """

    code: str
    name: str
    record: str
    what: str
    blocks: bool = True
    said: str = ""  # the provider's words, for the operator only
    fix: str = ""
    servers: tuple[str, ...] = ()  # that do not answer for their zone, and need no wait


def text_of(findings: Sequence[Finding]) -> str:
    """Return the sentences of the first findings, and how many more there are."""
    more = len(findings) - MOST_TOLD
    told = [each.what for each in findings[:MOST_TOLD]]
    if more > 0:
        told.append(_("There are %(more)s more findings.", more=more))
    return joined(" ", told)


def together(findings: Iterable[Finding]) -> list[Finding]:
    """Return one finding for each record at fault, blocking ones first."""
    same: dict[tuple[str, str], list[Finding]] = {}
    for each in findings:
        same.setdefault((each.code, each.record), []).append(each)
    return sorted(map(_merged, same.values()), key=lambda each: not each.blocks)


def _merged(same: Sequence[Finding]) -> Finding:
    others = len({each.what for each in same}) - 1
    if not others:
        return same[0]
    names = _("one more name") if others == 1 else _("%(others)s more names", others=others)
    return replace(
        same[0],
        what=_(
            "%(what)s The same holds for %(names)s of the certificate.",
            what=same[0].what,
            names=names,
        ),
    )


def _listed(labels: Sequence[str]) -> str:
    return first_of(labels, MOST_TOLD)
