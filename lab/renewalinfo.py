"""Renewal information (RFC 9773) for a CA that has none: windows, and which certificate was replaced by which order.

It knows the certificates that were downloaded through the proxy, by the identifier that section 4.1 gives them.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

from lab.limiting import Order

ALL = "*"


@dataclass
class Known:
    """A certificate that passed through. `replaced_by` is the order that replaces it, empty while there is none."""

    account: str
    names: frozenset[str]
    not_before: datetime
    not_after: datetime
    replaced_by: str = ""
    window: tuple[datetime, datetime] | None = None  # where somebody moved it

    def suggested(self) -> tuple[datetime, datetime]:
        """The window that was set, else from a third of the life left on, a thirtieth of the life long."""
        life = self.not_after - self.not_before
        start = self.not_after - life / 3
        return self.window or (start, start + life / 30)


@dataclass(frozen=True)
class Objection:
    """Why an order may not say that it replaces what it names."""

    status: int
    type: str
    detail: str


class RenewalInfos:
    """What the CA knows of its certificates. Whoever calls holds a lock."""

    def __init__(self) -> None:
        self.known: dict[str, Known] = {}
        self._issued: set[tuple[str, ...]] = set()

    def remember(self, chain_pem: bytes, account: str) -> None:
        """A chain was downloaded, perhaps not for the first time."""
        leaf = x509.load_pem_x509_certificate(chain_pem)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        listed = names.get_values_for_type(x509.DNSName)
        known = Known(
            account, frozenset(listed), leaf.not_valid_before_utc, leaf.not_valid_after_utc
        )
        self.known.setdefault(ari_id(leaf), known)
        self._issued.add(tuple(sorted(listed)))

    def was_issued(self, names: tuple[str, ...]) -> bool:
        """Exactly these names, sorted, to whomever."""
        return names in self._issued

    def objection(self, order: Order) -> Objection | None:
        """What section 5 lets a server refuse. None where the order replaces rightly, or nothing."""
        if not order.replaces:
            return None
        known = self.known.get(order.replaces)
        if known is None:
            return Objection(
                404, "malformed", "could not find an order for the given certificate: not found"
            )
        if known.account != order.account:
            what = "requester account did not request the certificate being replaced by this order"
            return Objection(403, "unauthorized", what)
        if known.names.isdisjoint(order.names):
            what = "the certificate being replaced shares no identifier with this order"
            return Objection(400, "malformed", what)
        if known.replaced_by:
            what = f"cannot indicate an order replaces certificate with identifier {order.replaces}, which already has"
            return Objection(409, "alreadyReplaced", f"{what} a replacement order")
        return None

    def replace(self, replaces: str, order: str) -> None:
        """The order was accepted."""
        self.known[replaces].replaced_by = order

    def give_up(self, order: str) -> None:
        """The order became invalid: what it replaced may be replaced by another."""
        for known in self.known.values():
            if known.replaced_by == order:
                known.replaced_by = ""

    def move(self, windows: Mapping[str, Sequence[str] | None]) -> None:
        """Set windows, [start, end] in RFC 3339; null puts one back. `*` is every certificate known by now."""
        for key, window in windows.items():
            moved = (instant(window[0]), instant(window[1])) if window else None
            for known in self._of(key):
                known.window = moved

    def document(self, certificate: str) -> dict[str, Any] | None:
        """The RenewalInfo object (section 4.2); None for a certificate that never passed."""
        if certificate not in self.known:
            return None
        start, end = self.known[certificate].suggested()
        return {"suggestedWindow": {"start": rfc3339(start), "end": rfc3339(end)}}

    def _of(self, key: str) -> Iterable[Known]:
        return self.known.values() if key == ALL else [self.known[key]]


def ari_id(leaf: x509.Certificate) -> str:
    """base64url(key identifier of the issuer) "." base64url(serial number as DER has it), RFC 9773, section 4.1."""
    issuer = leaf.extensions.get_extension_for_class(
        x509.AuthorityKeyIdentifier
    ).value.key_identifier
    if issuer is None:
        raise ValueError("the certificate does not say which key signed it")
    serial = leaf.serial_number
    return ".".join(
        base64url(part) for part in (issuer, serial.to_bytes(serial.bit_length() // 8 + 1, "big"))
    )


def base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
