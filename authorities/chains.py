"""Which of the chains that a CA offers is taken (RFC 8555, section 7.4.2). Texts in, texts out."""

from collections.abc import Iterable
from urllib.parse import urljoin

from requests.utils import parse_header_links

from authorities import pki

MOST_ALTERNATES = 5


def alternates(link: str, base_url: str) -> list[str]:
    """The URLs of the `Link` header's links of relation `alternate`, each once, five at most."""
    offered = [
        each["url"]
        for each in parse_header_links(link)
        if "alternate" in each.get("rel", "").lower().split()
    ]
    urls = [_absolute(base_url, url) for url in offered]
    return list(dict.fromkeys(url for url in urls if url.startswith(("https://", "http://"))))[
        :MOST_ALTERNATES
    ]


def _absolute(base_url: str, url: str) -> str:
    try:
        return urljoin(base_url, url)
    except ValueError:
        return ""


def choose(default: str, others: Iterable[str], preferred: str) -> str:
    """The chain that has the preferred issuer: the default, else the first of the others, else the default again.

    The others are fetched one by one, while they are needed. One that is broken, or of another leaf, is passed over.
    """
    if not preferred or has_issuer(default, preferred):
        return default
    return next(
        (
            other
            for other in others
            if _is_chain_of(default, other) and has_issuer(other, preferred)
        ),
        default,
    )


def has_issuer(chain_pem: str, common_name: str) -> bool:
    """Whether somebody of that common name signed a certificate of the chain; False for what is no chain at all."""
    try:
        return common_name in pki.issuers_of(pki.path_of(chain_pem))
    except pki.BadChain:
        return False


def _is_chain_of(default: str, other: str) -> bool:
    try:
        return pki.to_der(pki.path_of(other)) == pki.to_der(pki.path_of(default))
    except pki.BadChain:
        return False


def remarks(chain: pki.Chain) -> str:
    """What of a chain its owner did not ask for, for a sentence; empty where there is nothing."""
    told = ""
    if chain.added:
        told += f"; the CA added {', '.join(chain.added[:5])}"
        told += f" and {len(chain.added) - 5} more names" if len(chain.added) > 5 else ""
    if chain.left_out:
        told += f"; left out of the chain, to which they do not belong: {', '.join(chain.left_out)}"
    return told


def taken(chain_pem: str, preferred: str) -> str:
    """Which chain that is, for a sentence about a certificate that wants `preferred`; empty when it wants none."""
    if not preferred:
        return ""
    if has_issuer(chain_pem, preferred):
        return f", with the chain of {preferred}"
    return f", with the CA's default chain: it offered no chain of {preferred}"
