"""Findings, and their sentences."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

MOST_TOLD = 3  # findings in one text, and servers in one sentence


@dataclass(frozen=True)
class Finding:
    """A fault that the preflight found.

    `name` is a name of the certificate, and `record` is the record at fault. `what` says what is
    wrong and how to fix it. A finding that does not block is a warning, and the order goes on.
    """

    code: str
    name: str
    record: str
    what: str
    blocks: bool = True
    said: str = ""  # the provider's words, for the operator only
    servers: tuple[str, ...] = ()  # that do not answer for their zone, and need no wait


def text_of(findings: Sequence[Finding]) -> str:
    """Return the sentences of the first findings, and how many more there are."""
    more = len(findings) - MOST_TOLD
    told = [each.what for each in findings[:MOST_TOLD]]
    return " ".join([*told, f"There are {more} more findings."] if more > 0 else told)


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
    names = "one more name" if others == 1 else f"{others} more names"
    return replace(same[0], what=f"{same[0].what} The same holds for {names} of the certificate.")


def _listed(labels: Collection[str]) -> str:
    more = f" and {len(labels) - MOST_TOLD} more" if len(labels) > MOST_TOLD else ""
    return ", ".join(list(labels)[:MOST_TOLD]) + more
