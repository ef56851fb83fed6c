"""Names as the DNS compares them: A-labels, suffixes, names inside a zone."""

from functools import cache

import idna
from publicsuffixlist import PublicSuffixList


def a_label(name: str) -> str:
    """Return the name in lower case, with A-labels and without the last dot.

    Some provider APIs answer with U-labels.
    """
    name = name.lower().rstrip(".")
    return name if name.isascii() else ".".join(_a_label(each) for each in name.split("."))


def _a_label(label: str) -> str:
    try:
        return label if label.isascii() else idna.alabel(label).decode()
    except idna.IDNAError:
        # The record is foreign, because our names are always valid.
        return label


def is_inside(name: str, zone: str) -> bool:
    return name == zone or name.endswith("." + zone)


def suffixes(name: str, shortest: int = 2) -> list[str]:
    """Return the names that could be the zone of `name`, longest first.

    The last one has `shortest` labels.
    """
    labels = a_label(name).split(".")
    return [".".join(labels[at:]) for at in range(max(1, len(labels) - shortest + 1))]


@cache
def all_suffixes() -> PublicSuffixList:
    """Return the public suffix list with its private part.

    The private part holds suffixes such as github.io, which their operators entered.
    """
    return PublicSuffixList()


def registered_domain(name: str) -> str:
    """Return the registered domain by which CAs count a name.

    Examples: example.co.uk for *.www.example.co.uk, me.github.io for www.me.github.io.
    A public suffix is returned unchanged. So is a wildcard directly below a public suffix.
    The private part of the list counts too, as in Boulder, the server of Let's Encrypt
    (`coveringIdentifier` in its ratelimits/utilities.go).
    """
    return str(all_suffixes().privatesuffix(name) or name)


def shown(name: object, most: int = 100) -> str:
    """Return the name in a form that is safe in a sentence.

    Unprintable characters are replaced, because a terminal could obey them. A name of more than
    `most` characters is cut.
    """
    text = "".join(
        each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(name)
    ).strip()
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
