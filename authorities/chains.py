"""Choose one of the chains that a CA offers (RFC 8555, section 7.4.2). Works on PEM texts only."""

from collections.abc import Iterable
from urllib.parse import urljoin

from requests.utils import parse_header_links

from authorities import pki
from certctrl.sentences import first_of, joined
from certctrl.sentences import sentence as _

MOST_ALTERNATES = 5


def alternates(link: str, base_url: str) -> list[str]:
    """Return the URLs of the `Link` header's links with the relation `alternate`.

    Each URL is returned once. At most five are returned.
    """
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
    """Return the first chain that has the preferred issuer, or `default` when no chain has it.

    `default` is tried first, then `others` in their order. No more of `others` is read than is
    needed. A broken chain, or a chain of another leaf, is skipped.
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
    """Return whether an issuer with this common name signed a certificate of the chain.

    Return False for a broken chain.
    """
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
    """Return how the chain differs from the request, as part of a sentence; empty when equal."""
    told = []
    if chain.added:
        told.append(_("; the CA added %(listed)s", listed=first_of(chain.added, 5)))
    if chain.left_out:
        told.append(
            _(
                "; certificates that do not belong to the chain were left out: %(left_out)s",
                left_out=", ".join(chain.left_out),
            )
        )
    return joined("", told)


def taken(chain_pem: str, preferred: str) -> str:
    """Return which chain was taken, as part of a sentence; empty when there is no preference."""
    if not preferred:
        return ""
    if has_issuer(chain_pem, preferred):
        return _(", with the chain of %(preferred)s", preferred=preferred)
    return _(
        ", with the CA's default chain, because it offered no chain of %(preferred)s",
        preferred=preferred,
    )
