"""Renewal information (RFC 9773) for a CA without it: renewal windows and replaced certificates.

It knows the certificates that were downloaded through the proxy. Their identifiers follow section
4.1.
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
    """A downloaded certificate. `replaced_by` is the order that replaces it, or empty."""

    account: str
    names: frozenset[str]
    not_before: datetime
    not_after: datetime
    replaced_by: str = ""
    window: tuple[datetime, datetime] | None = None  # set when a test moved it

    def suggested(self) -> tuple[datetime, datetime]:
        """Return the window that was set, or the default window.

        The default starts when a third of the life is left. It is a thirtieth of the life long.
        """
        life = self.not_after - self.not_before
        start = self.not_after - life / 3
        return self.window or (start, start + life / 30)


@dataclass(frozen=True)
class Objection:
    """Why an order may not replace the certificate that it names."""

    status: int
    type: str
    detail: str


class RenewalInfos:
    """The known certificates of the CA. The caller must hold a lock."""

    def __init__(self) -> None:
        self.known: dict[str, Known] = {}
        self._issued: set[tuple[str, ...]] = set()

    def remember(self, chain_pem: bytes, account: str) -> None:
        """Record a downloaded chain. A second download changes nothing."""
        leaf = x509.load_pem_x509_certificate(chain_pem)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        listed = names.get_values_for_type(x509.DNSName)
        known = Known(
            account, frozenset(listed), leaf.not_valid_before_utc, leaf.not_valid_after_utc
        )
        self.known.setdefault(ari_id(leaf), known)
        self._issued.add(tuple(sorted(listed)))

    def was_issued(self, names: tuple[str, ...]) -> bool:
        """Return whether a certificate with exactly these names was issued, for any account."""
        return names in self._issued

    def objection(self, order: Order) -> Objection | None:
        """Return the reason to refuse `replaces` (RFC 9773, section 5), or None."""
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
            what = (
                f"cannot indicate an order replaces certificate with identifier {order.replaces}, "
                "which already has"
            )
            return Objection(409, "alreadyReplaced", f"{what} a replacement order")
        return None

    def replace(self, replaces: str, order: str) -> None:
        """Record that `order` was accepted and replaces the certificate."""
        self.known[replaces].replaced_by = order

    def give_up(self, order: str) -> None:
        """Record that the order became invalid. Another order may now replace the certificate."""
        for known in self.known.values():
            if known.replaced_by == order:
                known.replaced_by = ""

    def move(self, windows: Mapping[str, Sequence[str] | None]) -> None:
        """Set windows, as [start, end] in RFC 3339. null restores the default window.

        The key `*` means every certificate that is known now.
        """
        for key, window in windows.items():
            moved = (instant(window[0]), instant(window[1])) if window else None
            for known in self._of(key):
                known.window = moved

    def document(self, certificate: str) -> dict[str, Any] | None:
        """Return the RenewalInfo object (section 4.2), or None for an unknown certificate."""
        if certificate not in self.known:
            return None
        start, end = self.known[certificate].suggested()
        return {"suggestedWindow": {"start": rfc3339(start), "end": rfc3339(end)}}

    def _of(self, key: str) -> Iterable[Known]:
        return self.known.values() if key == ALL else [self.known[key]]


def ari_id(leaf: x509.Certificate) -> str:
    """Return the identifier of RFC 9773, section 4.1.

    It is base64url(key identifier of the issuer) "." base64url(serial number in DER).
    """
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
