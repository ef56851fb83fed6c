"""What a CA's resources look like to the steps (RFC 8555, section 7.1), and what every CA can be asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from certctrl.turns import Trouble


class Refused(Trouble):
    """The CA said no, and would say it again: this attempt is over.

    When it is not `permanent` a later attempt may well succeed (a TXT record that was not seen, a CAA record that was
    changed meanwhile); when it is, somebody must change something first.
    """

    ends_attempt = True


@dataclass(frozen=True)
class Problem:
    """Why the CA refused (RFC 7807 and RFC 8555, section 6.7). `type` is without its urn: prefix."""

    type: str
    detail: str
    permanent: bool = False  # whether a later attempt is pointless until somebody changes something
    code: str = "ca_refused"  # stable; `ca_` and the type in snake case

    def __str__(self) -> str:
        return f"{self.detail} ({self.type})"

    def refused(self, what: str) -> Refused:
        """The Trouble to raise for it; `what` says what was refused, the CA's words follow it."""
        return Refused(self.code, f"{what} The CA says: {self}", permanent=self.permanent)


@dataclass(frozen=True)
class OrderResource:
    url: str
    status: str  # pending, ready, processing, valid, invalid
    authorizations: tuple[str, ...] = ()
    finalize_url: str = ""
    certificate_url: str = ""
    expires_at: datetime | None = None
    problem: Problem | None = None
    retry_after: float | None = None  # seconds


@dataclass(frozen=True)
class AuthorizationResource:
    url: str
    identifier: str  # without the "*." of a wildcard
    wildcard: bool
    status: str  # pending, valid, invalid, deactivated, expired, revoked
    challenge_url: str = ""  # of its dns-01 challenge; empty when none is offered
    challenge_status: str = ""
    txt_value: str = ""  # what the TXT record must hold: base64url(SHA-256(key authorization))
    problem: Problem | None = None


@dataclass(frozen=True)
class AccountResource:
    url: str  # the kid
    status: str  # valid, deactivated, revoked


class CA(Protocol):
    """One account at one CA. Every call is one exchange (and its nonce) and ends within `clock.time_left()`.

    All raise `turns.Trouble` when it may be tried again (network, 5xx, rate limits), `Refused` for the CA's refusals,
    with the CA's own words in `what`, and `turns.Wait` for `orderNotReady`. None sleeps, polls, or retries but for
    `badNonce`.
    """

    def register(self) -> AccountResource:
        """newAccount with the account's key; the CA answers with the account that it has when it knows the key."""

    def profiles(self) -> Mapping[str, str]:
        """The profiles that the directory lists, with what it says of each; empty when it lists none."""

    def new_order(self, names: Sequence[str], *, profile: str = "") -> OrderResource:
        """newOrder for A-labels. `profile` is one that the directory lists (draft-ietf-acme-profiles), or empty."""

    def read_order(self, url: str) -> OrderResource: ...

    def read_authorization(self, url: str) -> AuthorizationResource: ...

    def answer(self, challenge_url: str) -> None:
        """Tell the CA that the record is there. Answering twice changes nothing."""

    def finalize(self, order: OrderResource, csr_pem: str) -> OrderResource: ...

    def download(
        self,
        certificate_url: str,
        csr_pem: str = "",
        validity_seconds: int | None = None,
        preferred_chain: str = "",
    ) -> str:
        """The chain as PEM, leaf first. A private CA signs it here, from the CSR; an ACME CA needs the URL only.

        `preferred_chain` is the common name of an issuer: the first chain that has it is answered, else the default.
        """

    def revoke(self, chain_pem: str, reason: int) -> None:
        """Revoke the leaf; one that is revoked already is success. `reason` as RFC 5280, 5.3.1 numbers it."""
