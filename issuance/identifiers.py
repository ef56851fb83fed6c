"""Validate the names of a certificate: host names as A-labels, proved by dns-01.

Names that every public CA refuses are refused here. The rules are in RFC 8555 (section 7.1.4), RFC
5890 and the Baseline Requirements. So a person reads the error at once, and not after an order. A
private CA also signs for IP addresses, names without a dot, and names with underscores.
"""

import ipaddress
import re
import unicodedata
from collections.abc import Sequence
from functools import cache

import idna
from publicsuffixlist import PublicSuffixList

from certctrl.errors import Invalid
from certctrl.sentences import sentence as _
from dnsclient.names import shown

MAX_NAMES = 100
MAX_LENGTH = 253
MAX_LABEL = 63
CHALLENGE_PREFIX = "_acme-challenge."
WILDCARD = "*."
LOCAL_LABEL = re.compile(r"(?!..--)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE | re.ASCII)
NUMERIC_LABEL = re.compile(
    r"[0-9]+|0x[0-9a-f]*"
)  # as the last label; clients take such a name for an IPv4 address
BROADCAST = ipaddress.IPv4Address("255.255.255.255")
A_LABEL = re.compile(r"xn--[a-z0-9-]*[a-z0-9]", re.I)
ASCII_DOTS = str.maketrans("。．｡", "...")  # RFC 3490, section 3.1 # noqa: RUF001


def normalize_names(
    names: Sequence[str],
    most: int = MAX_NAMES,
    *,
    private: bool = False,
    addresses: bool = False,
) -> list[str]:
    """Return the names as lower-case A-labels without trailing dots, each once.

    The given sequence is kept, and the first name is the domain. `private` also allows IP addresses
    and names of a local network. `addresses` allows IP addresses, for a CA that proves them by a
    device. Raise Invalid with `field` and `name`. `field` is `domain` for the
    first name, and `sans` for the others. The sentence says what is wrong and what to do.
    """
    found: dict[str, None] = {}
    for name in dict.fromkeys(names):
        field = "sans" if found else "domain"
        found[normalize_name(name, field, private=private, addresses=addresses)] = None
        if len(found) > most:
            raise Invalid(
                _(
                    "A certificate holds at most %(most)s names. Split the request into several.",
                    most=most,
                ),
                field="sans",
            )
    if not found:
        raise Invalid(_("Name at least one domain, such as example.com."), field="domain")
    if not private:
        refuse_covered(list(found))
    return list(found)


def normalize_name(
    name: str, field: str = "domain", *, private: bool = False, addresses: bool = False
) -> str:
    """Return one name as a lower-case A-label, with its `*.`.

    Raise Invalid as `normalize_names` does.
    """
    try:
        return _normalize_private(name) if private else _normalize(name, addresses)
    except ValueError as exc:
        raise Invalid(exc.args[0], field=field, name=shown(name)) from None


def bases(names: Sequence[str]) -> list[str]:
    """Return the names without `*.`, each once.

    A CA asks for a proof at these names.
    """
    return list(dict.fromkeys(name.removeprefix(WILDCARD) for name in names))


def refuse_covered(names: Sequence[str]) -> None:
    """Raise Invalid for a name that a wildcard covers, because CAs refuse it."""
    present = set(names)
    for place, name in enumerate(names):
        wildcard = WILDCARD + name.partition(".")[2]
        if not name.startswith(WILDCARD) and wildcard in present:
            what = _(
                "%(name)s is already covered by %(wildcard)s in the same request. CAs "
                "refuse that. Leave one of them out.",
                name=name,
                wildcard=wildcard,
            )
            raise Invalid(what, field="sans" if place else "domain", name=name)


def _normalize(name: str, addresses: bool) -> str:
    text = _stripped(name)
    if addresses and (address := _address(text, name)):
        return address
    _refuse_address(text, name)
    base = _without_wildcard(text, name)
    if "_" in base:
        raise ValueError(
            _(
                "%(name)s has an underscore, which no public CA certifies. Use a name of letters, "
                "digits and hyphens, or a private CA.",
                name=shown(name),
            )
        )
    a_labels = _a_labels(base, name)
    _refuse_long_challenge(a_labels, name)
    _refuse_suffix(a_labels, name)
    return WILDCARD + a_labels if text.startswith(WILDCARD) else a_labels


def _normalize_private(name: str) -> str:
    text = _stripped(name)
    if address := _address(text, name):
        return address
    base = _without_wildcard(text, name)
    if "_" in base:
        a_labels = ".".join(_local_label(label, name) for label in base.split("."))
    else:
        a_labels = _a_labels(base, name)
    if NUMERIC_LABEL.fullmatch(a_labels.rpartition(".")[2]):
        raise ValueError(_no_host_name(name))
    whole = WILDCARD + a_labels if text.startswith(WILDCARD) else a_labels
    _refuse_length(whole, name)
    return whole


def _without_wildcard(text: str, name: str) -> str:
    base = text.removeprefix(WILDCARD)
    if "*" in base:
        raise ValueError(
            _(
                "%(name)s has a wildcard in the wrong place. It must be the whole first label, "
                "such as *.example.com.",
                name=shown(name),
            )
        )
    return base


def _stripped(name: object) -> str:
    if not isinstance(name, str):
        raise ValueError(_("A name must be a string, such as example.com."))
    if any(unicodedata.category(each) in ("Cc", "Cs") for each in name):
        raise ValueError(
            _(
                "%(name)s contains control characters. Write the name without them.",
                name=shown(name),
            )
        )
    text = name.strip(" ").translate(ASCII_DOTS).removesuffix(".")
    if not text:
        raise ValueError(_("A name is empty. Write it, or leave it out."))
    if len(text) > 4 * MAX_LENGTH:
        raise ValueError(_long_name(name))
    return text


def _refuse_address(text: str, name: str) -> None:
    try:
        ipaddress.ip_address(text.removeprefix(WILDCARD).strip("[]"))
    except ValueError:
        return
    raise ValueError(
        _(
            "%(name)s is an IP address, which DNS-01 cannot validate. Set verify_method to http-01 "
            "or tls-alpn-01, ask for a host name that leads to it, or have a private CA sign it.",
            name=shown(name),
        )
    )


def _address(text: str, name: str) -> str:
    """Return the IP address in its canonical form, or an empty string for other text.

    Raise ValueError for an address that is not of one host. Raise it also for text that only looks
    like an address.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        _refuse_almost_address(bare, name)
        return ""
    if "%" in bare:
        raise ValueError(
            _(
                "%(name)s has a zone id, which no certificate holds. Write %(address)s.",
                name=shown(name),
                address=bare.partition("%")[0],
            )
        )
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        raise ValueError(
            _(
                "%(name)s is an IPv4 address in IPv6 form. Write %(address)s.",
                name=shown(name),
                address=address.ipv4_mapped,
            )
        )
    if address.is_unspecified or address.is_multicast or address == BROADCAST:
        raise ValueError(
            _(
                "%(name)s is not the address of one host. Write the address that clients connect "
                "to.",
                name=shown(name),
            )
        )
    return str(address)


def _refuse_almost_address(text: str, name: str) -> None:
    base, slash, length = text.partition("/")
    if text.startswith(WILDCARD) and is_address(text.removeprefix(WILDCARD)):
        raise ValueError(
            _(
                "%(name)s is a wildcard of an IP address, which does not exist. Name each address.",
                name=shown(name),
            )
        )
    if slash and length.isdigit() and is_address(base):
        raise ValueError(
            _(
                "%(name)s is a network, and a certificate holds single addresses. Name each "
                "address.",
                name=shown(name),
            )
        )
    if text.startswith("[") and "]:" in text and is_address(text[1:].partition("]")[0]):
        raise ValueError(_("%(name)s has a port. Write the address without it.", name=shown(name)))
    if re.fullmatch(r"[0-9]+(\.[0-9]+){3}", text, re.ASCII):
        raise ValueError(
            _(
                "%(name)s is not an IPv4 address. Write four numbers from 0 to 255 without "
                "leading zeros.",
                name=shown(name),
            )
        )
    if text.count(":") > 1 and re.fullmatch(r"[0-9a-f:.]+(%.*)?", text, re.IGNORECASE | re.ASCII):
        raise ValueError(
            _(
                "%(name)s is not an IPv6 address. Write one such as 2001:db8::7, without a port.",
                name=shown(name),
            )
        )


def _local_label(label: str, name: str) -> str:
    """Return a label as `_a_labels` does, but allow underscores.

    The idna library refuses underscores.
    """
    if "_" not in label:
        return _a_labels(label, name)
    if len(label) > MAX_LABEL:
        raise ValueError(_long_label(name))
    if not LOCAL_LABEL.fullmatch(label):
        raise ValueError(_no_host_name(name))
    return label.lower()


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def _a_labels(base: str, name: str) -> str:
    for label in base.split("."):
        if len(label) > MAX_LABEL and label.isascii():
            raise ValueError(_long_label(name))
    try:
        encoded = ".".join(map(_a_label, base.split(".")))
    except (idna.IDNAError, UnicodeError) as exc:
        raise ValueError(_too_long(str(exc).lower(), name) or _no_host_name(name)) from None
    if encoded.endswith(
        "."
    ):  # a second final dot, which the library takes; it would name the same host
        raise ValueError(_no_host_name(name))
    _refuse_length(encoded, name)
    return encoded.lower()


def _a_label(label: str) -> str:
    """Return one label as an A-label.

    A label that already is one is kept if it is Punycode (RFC 3492). Some registered names, for
    instance with emoji, are not allowed by IDNA 2008 (xn--i-7iq).
    """
    if A_LABEL.fullmatch(label) and len(label) <= MAX_LABEL and _is_punycode(label[4:].lower()):
        return label.lower()
    return idna.encode(label, uts46=True).decode()


def _is_punycode(encoded: str) -> bool:
    """Return whether the text encodes a label that is not ASCII, in the one valid form."""
    try:
        decoded = encoded.encode().decode("punycode")
        return not decoded.isascii() and decoded.encode("punycode").decode() == encoded
    except (UnicodeError, ValueError, OverflowError):
        return False


def _too_long(words: str, name: str) -> str:
    """Return our sentence for the library's "too long", or an empty string.

    The library measures A-labels while it makes them.
    """
    if "too long" not in words:
        return ""
    return _long_label(name) if "label" in words else _long_name(name)


def _long_name(name: str) -> str:
    return _(
        "%(name)s is longer than the %(max_length)s characters that a host name may "
        "have. Shorten it.",
        name=shown(name),
        max_length=MAX_LENGTH,
    )


def _long_label(name: str) -> str:
    return _(
        "%(name)s has a label (the part between two dots) of more than %(max_label)s "
        "characters. Shorten it.",
        name=shown(name),
        max_label=MAX_LABEL,
    )


def _no_host_name(name: str) -> str:
    return _(
        "%(name)s is not a host name. Write letters, digits and hyphens between dots, as "
        "in www.example.com, without scheme, port or path.",
        name=shown(name),
    )


def _refuse_length(encoded: str, name: str) -> None:
    if len(encoded) > MAX_LENGTH:
        raise ValueError(_long_name(name))


def _refuse_long_challenge(encoded: str, name: str) -> None:
    if len(CHALLENGE_PREFIX + encoded) > MAX_LENGTH:
        longest = MAX_LENGTH - len(CHALLENGE_PREFIX)
        raise ValueError(
            _(
                "%(name)s is too long for DNS-01. With %(prefix)s in front, %(longest)s "
                "characters are left. Shorten it.",
                name=shown(name),
                prefix=CHALLENGE_PREFIX,
                longest=longest,
            )
        )


def _refuse_suffix(a_labels: str, name: str) -> None:
    labels = a_labels.split(".")
    if NUMERIC_LABEL.fullmatch(labels[-1]):
        raise ValueError(_no_host_name(name))
    if "." not in a_labels and not is_listed_suffix(a_labels):
        raise ValueError(
            _(
                "%(name)s has no dot. Ask for a name in a domain, such as %(base)s.example.com, "
                "or have a private CA sign it.",
                name=shown(a_labels),
                base=a_labels,
            )
        )
    if suffixes().is_public(a_labels):
        raise ValueError(
            _(
                "%(name)s is a public suffix, which no single owner has. Ask for a name below it, "
                "such as example.%(base)s.",
                name=shown(name),
                base=a_labels,
            )
        )


@cache
def suffixes() -> PublicSuffixList:
    """Return the ICANN part of the public suffix list, from the package.

    Domains are registered under these names.
    """
    return PublicSuffixList(only_icann=True)


def is_listed_suffix(name: str) -> bool:
    """Return whether names are registered directly under `name`, by the list.

    A suffix of a local network is not in the list.
    """
    return bool(suffixes().publicsuffix(name, accept_unknown=False) == name)
