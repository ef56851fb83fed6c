"""The names that a certificate can be asked for: host names as A-labels, validated by DNS-01.

What is refused here is what every public CA refuses (RFC 8555 section 7.1.4, RFC 5890, the Baseline Requirements), so
that the person reads it at once and not from the CA an order later.
"""

import ipaddress
import re
import unicodedata
from collections.abc import Sequence
from functools import cache

import idna
from publicsuffixlist import PublicSuffixList

from certctrl.errors import Invalid

MAX_NAMES = 100
MAX_LENGTH = 253
MAX_LABEL = 63
CHALLENGE_PREFIX = "_acme-challenge."
WILDCARD = "*."
A_LABEL = re.compile(r"xn--[a-z0-9-]*[a-z0-9]", re.I)
ASCII_DOTS = str.maketrans("。．｡", "...")  # RFC 3490, section 3.1 # noqa: RUF001


def normalize_names(names: Sequence[str], most: int = MAX_NAMES) -> list[str]:
    """The names as lower-case A-labels without trailing dots, each once, in the order given; the first is the domain.

    Raises Invalid with `field` (`domain` for the first name, `sans` for the others) and `name`, and a sentence that
    says what is wrong with it and what to do.
    """
    found: dict[str, None] = {}
    for name in dict.fromkeys(names):
        found[normalize_name(name, field="sans" if found else "domain")] = None
        if len(found) > most:
            raise Invalid(f"A certificate holds at most {most} names; split the request into several.", field="sans")
    if not found:
        raise Invalid("Name at least one domain, such as example.com.", field="domain")
    refuse_covered(list(found))
    return list(found)


def normalize_name(name: str, field: str = "domain") -> str:
    """One name as a lower-case A-label, `*.` kept; Invalid as `normalize_names` says."""
    try:
        return _normalize(name)
    except ValueError as exc:
        raise Invalid(str(exc), field=field, name=shown(name)) from None


def bases(names: Sequence[str]) -> list[str]:
    """The names without `*.`, each once: those at which a CA asks for a proof."""
    return list(dict.fromkeys(name.removeprefix(WILDCARD) for name in names))


def refuse_covered(names: Sequence[str]) -> None:
    """CAs refuse a name that a wildcard in the same order already covers."""
    for place, name in enumerate(names):
        wildcard = WILDCARD + name.partition(".")[2]
        if not name.startswith(WILDCARD) and wildcard in names:
            what = (
                f"{name} is already covered by {wildcard} in the same request, which CAs refuse: leave out one of them."
            )
            raise Invalid(what, field="sans" if place else "domain", name=name)


def _normalize(name: str) -> str:
    text = _stripped(name)
    _refuse_address(text, name)
    base = text.removeprefix(WILDCARD)
    if "*" in base:
        raise ValueError(f"{shown(name)}: a wildcard is a whole label and the leftmost one, as in *.example.com.")
    a_labels = _a_labels(base, name)
    _refuse_suffix(a_labels, name)
    return WILDCARD + a_labels if text.startswith(WILDCARD) else a_labels


def _stripped(name: object) -> str:
    if not isinstance(name, str):
        raise ValueError("A name must be a string, such as example.com.")
    if any(unicodedata.category(each) in ("Cc", "Cs") for each in name):
        raise ValueError(f"{shown(name)} contains control characters: write the name without them.")
    text = name.strip(" ").translate(ASCII_DOTS).removesuffix(".")
    if not text:
        raise ValueError("A name is empty: write it, or leave it out.")
    if len(text) > 4 * MAX_LENGTH:
        raise ValueError(_long_name(name))
    return text


def _refuse_address(text: str, name: str) -> None:
    try:
        ipaddress.ip_address(text.removeprefix(WILDCARD).strip("[]"))
    except ValueError:
        return
    raise ValueError(
        f"{shown(name)} is an IP address, which DNS-01 cannot validate: ask for a host name that leads to it."
    )


def _a_labels(base: str, name: str) -> str:
    if "_" in base:
        raise ValueError(
            f"{shown(name)} has an underscore, which no CA certifies: use a name of letters, digits and hyphens."
        )
    for label in base.split("."):
        if len(label) > MAX_LABEL and label.isascii():
            raise ValueError(_long_label(name))
    try:
        encoded = ".".join(map(_a_label, base.split(".")))
    except (idna.IDNAError, UnicodeError) as exc:
        raise ValueError(_too_long(str(exc).lower(), name) or _no_host_name(name)) from None
    if encoded.endswith("."):  # one more for the root, which the library takes: another name for the same host
        raise ValueError(_no_host_name(name))
    _refuse_length(encoded, name)
    return encoded.lower()


def _a_label(label: str) -> str:
    """One label as an A-label. One that is written so is taken as it is where it is Punycode (RFC 3492): names are
    registered, with emoji for instance, that IDNA 2008 does not allow (xn--i-7iq)."""
    if A_LABEL.fullmatch(label) and len(label) <= MAX_LABEL and _is_punycode(label[4:].lower()):
        return label.lower()
    return idna.encode(label, uts46=True).decode()


def _is_punycode(encoded: str) -> bool:
    """Whether it stands for something that is not ASCII, and is the one way to write that."""
    try:
        decoded = encoded.encode().decode("punycode")
        return not decoded.isascii() and decoded.encode("punycode").decode() == encoded
    except (UnicodeError, ValueError, OverflowError):
        return False


def _too_long(words: str, name: str) -> str:
    """Our sentence for the library's words, since it measures A-labels while it makes them."""
    if "too long" not in words:
        return ""
    return _long_label(name) if "label" in words else _long_name(name)


def _long_name(name: str) -> str:
    return f"{shown(name)} is longer than the {MAX_LENGTH} characters that a host name may have: shorten it."


def _long_label(name: str) -> str:
    return f"{shown(name)} has a label (the part between two dots) of more than {MAX_LABEL} characters: shorten it."


def _no_host_name(name: str) -> str:
    return (
        f"{shown(name)} is not a host name: write letters, digits and hyphens between dots, as in www.example.com,"
        " without scheme, port or path."
    )


def _refuse_length(encoded: str, name: str) -> None:
    if len(encoded) > MAX_LENGTH:
        raise ValueError(_long_name(name))
    if len(CHALLENGE_PREFIX + encoded) > MAX_LENGTH:
        longest = MAX_LENGTH - len(CHALLENGE_PREFIX)
        raise ValueError(
            f"{shown(name)} is too long for DNS-01: {CHALLENGE_PREFIX} goes in front of it,"
            f" which leaves {longest} characters."
        )


def _refuse_suffix(a_labels: str, name: str) -> None:
    labels = a_labels.split(".")
    if labels[-1].isdigit():
        raise ValueError(_no_host_name(name))
    if "." not in a_labels and not is_listed_suffix(a_labels):
        raise ValueError(f"{shown(a_labels)} has no dot: ask for a name in a domain, such as {a_labels}.example.com.")
    if suffixes().is_public(a_labels):
        raise ValueError(
            f"{shown(name)} is a public suffix, under which names are registered, and nobody's own: ask for a name"
            f" below it, such as example.{a_labels}."
        )


@cache
def suffixes() -> PublicSuffixList:
    """The ICANN part of the public suffix list, from the package: CAs count registered domains by it."""
    return PublicSuffixList(only_icann=True)


def is_listed_suffix(name: str) -> bool:
    """Whether names are registered directly under it, by the list; a suffix of one's own network is in no list."""
    return bool(suffixes().publicsuffix(name, accept_unknown=False) == name)


def registered_domain(name: str) -> str:
    """The domain that somebody registered, by which CAs count: example.co.uk of *.www.example.co.uk."""
    base = name.removeprefix(WILDCARD)
    return str(suffixes().privatesuffix(base) or base)


def shown(name: object, most: int = 100) -> str:
    """The name as it can stand in a sentence: nothing that a terminal would obey, and not all of a long one."""
    text = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(name)).strip()
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
