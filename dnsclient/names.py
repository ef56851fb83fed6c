"""Names as the DNS compares them: A-labels, suffixes, what is inside a zone."""

from functools import cache

import idna
from publicsuffixlist import PublicSuffixList


def a_label(name: str) -> str:
    """The name in lower case with A-labels and without the last dot; providers also answer with U-labels."""
    name = name.lower().rstrip(".")
    return name if name.isascii() else ".".join(_a_label(each) for each in name.split("."))


def _a_label(label: str) -> str:
    try:
        return label if label.isascii() else idna.alabel(label).decode()
    except idna.IDNAError:  # somebody else's record: no name of ours is like it
        return label


def is_inside(name: str, zone: str) -> bool:
    return name == zone or name.endswith("." + zone)


def suffixes(name: str, shortest: int = 2) -> list[str]:
    """The names that could be the zone of `name`, longest first, down to `shortest` labels."""
    labels = a_label(name).split(".")
    return [".".join(labels[at:]) for at in range(max(1, len(labels) - shortest + 1))]


@cache
def all_suffixes() -> PublicSuffixList:
    """The whole list, with its private part, where the operators of github.io or dedyn.io have entered them."""
    return PublicSuffixList()


def registered_domain(name: str) -> str:
    """The domain by which CAs count a name: example.co.uk of *.www.example.co.uk, me.github.io of www.me.github.io.

    As Let's Encrypt's Boulder has it (`coveringIdentifier` in its ratelimits/utilities.go): by the whole list, and a
    suffix itself counts as itself, as does a wildcard right below one.
    """
    return str(all_suffixes().privatesuffix(name) or name)


def shown(name: object, most: int = 100) -> str:
    """The name as it can stand in a sentence: nothing that a terminal would obey, and not all of a long one."""
    text = "".join(
        each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(name)
    ).strip()
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
