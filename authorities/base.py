"""What a CA's resources look like to the steps (RFC 8555, section 7.1), and what every CA can be asked."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from authorities.errors import Problem
from certctrl.turns import Trouble


@dataclass(frozen=True)
class Reach:
    """Where a CA is called: which hosts it may lead to besides those of its directory's domain, and whether the
    directory was named by a tenant, and not by whoever runs this server."""

    hosts: Collection[str] = ()
    is_named_by_tenant: bool = False


MAX_LINK = 500  # characters


class NotYet(Trouble):
    """The CA does not show what it named itself. Its nodes may lag: it is asked again after seconds, then after minutes
    (issuance.workflow.machine). An attempt whose CSR was sent never ends for it. `asked` is what was asked for."""

    def __init__(self, code: str, what: str, asked: str) -> None:
        super().__init__(code, what)
        self.asked = asked


@dataclass(frozen=True)
class OrderResource:
    url: str
    status: str  # pending, ready, processing, valid, invalid; URLs are empty where the CA does not name them (yet)
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
    problem: Problem | None = None  # of the dns-01 challenge while it is pending

    @property
    def name(self) -> str:
        return f"*.{self.identifier}" if self.wildcard else self.identifier

    @property
    def has_failed(self) -> bool:
        """Whether it will not become valid. A challenge that is `invalid` decides, whatever its authorization says."""
        return self.status not in ("pending", "valid") or (
            self.status == "pending" and self.challenge_status == "invalid"
        )

    @property
    def gave_up(self) -> bool:
        """`has_failed` of one that was answered: an error ends it too. One that is `processing` may have an error while
        the CA still looks (RFC 8555, section 8.2)."""
        stopped = (
            self.status == "pending"
            and self.challenge_status != "processing"
            and self.problem is not None
        )
        return self.has_failed or stopped


@dataclass(frozen=True)
class AccountResource:
    url: str  # the kid
    status: str  # valid, deactivated, revoked


@dataclass(frozen=True)
class RenewalInfoResource:
    """When the CA suggests to renew a certificate (RFC 9773, section 4.2)."""

    window_start: datetime
    window_end: datetime
    explanation_url: str = ""  # a page for people, http or https
    retry_after: float | None = None  # seconds

    @classmethod
    def of(
        cls, document: Mapping[str, Any], retry_after: float | None = None
    ) -> "RenewalInfoResource":
        """Read a RenewalInfo object. ValueError, TypeError or KeyError when it is none, or its window is no window."""
        window = document["suggestedWindow"]
        start, end = _moment(window["start"]), _moment(window["end"])
        if start >= end:
            raise ValueError("the window ends before it begins")
        return cls(start, end, _link(document.get("explanationURL")), retry_after)


def _moment(text: str) -> datetime:
    """A time of RFC 3339, in UTC; of a year that every database and every clock can show."""
    at = datetime.fromisoformat(text.upper())
    if at.tzinfo is None or not 1970 < at.year < 9999:
        raise ValueError("no moment in time")
    return at.astimezone(UTC)


def _link(found: Any) -> str:
    is_link = isinstance(found, str) and found.startswith(("https://", "http://"))
    return found if is_link and found.isprintable() and len(found) <= MAX_LINK else ""


class CA(Protocol):
    """One account at one CA. Every call is one exchange (and its nonce) and ends within `clock.time_left()`.

    All raise `turns.Trouble` when it may be tried again (network, 5xx, rate limits), `Refused` for the CA's refusals,
    with the CA's own words in `what`, `NotYet` where it does not show what it named itself, and `turns.Wait` for
    `orderNotReady`. None sleeps, polls, or retries but for a nonce that was too old.
    """

    def caa_identities(self) -> tuple[str, ...]:
        """By which names CAA records may name this CA, as its directory says (RFC 8555, section 7.1.1); lower case."""

    def register(self) -> AccountResource:
        """newAccount with the account's key; the CA answers with the account that it has when it knows the key."""

    def profiles(self) -> Mapping[str, str]:
        """The profiles that the directory lists, with what it says of each; empty when it lists none."""

    def new_order(
        self, names: Sequence[str], *, profile: str = "", replaces: str = ""
    ) -> OrderResource:
        """newOrder for A-labels. `profile` is one that the directory lists (draft-ietf-acme-profiles), or empty;
        `replaces` the ari_id of the certificate that the new one is to replace (RFC 9773, section 5), or empty."""

    def read_order(self, url: str) -> OrderResource: ...

    def read_authorization(self, url: str) -> AuthorizationResource: ...

    def answer(self, challenge_url: str) -> str:
        """Tell the CA that the record is there. Answering twice changes nothing; what became of it the order tells.

        Empty, or a sentence that says why the answer may not have come to the CA: then it is to be given again.
        """

    def deactivate(self, authorization_url: str) -> None:
        """Give up an authorization (RFC 8555, section 7.5.2)."""

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

    def offers_renewal_info(self) -> bool:
        """Whether it tells when to renew, and so takes `replaces`."""

    def renewal_info(self, ari_id: str) -> RenewalInfoResource | None:
        """When it wants the certificate renewed; None where it offers no such thing. Refused when what it answers is
        none either: asking again soon is pointless."""
