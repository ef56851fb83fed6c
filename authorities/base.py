"""A CA's resources (RFC 8555, section 7.1), and the calls that every CA offers."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from authorities.errors import Problem
from certctrl.turns import Trouble


@dataclass(frozen=True)
class Reach:
    """The hosts that may be called for a CA.

    `hosts` are allowed besides the hosts in the domain of the CA's directory. `is_named_by_tenant`:
    a tenant named the directory, not the operator of this server.
    """

    hosts: Collection[str] = ()
    is_named_by_tenant: bool = False


MAX_LINK = 500  # characters


class NotYet(Trouble):
    """The CA does not show a resource that it named itself.

    Its nodes may lag. The resource is read again after seconds, then after minutes
    (`issuance.workflow.machine`). This trouble never ends an attempt whose CSR was sent. `about`
    names the request.
    """

    def __init__(self, code: str, what: str, about: str) -> None:
        super().__init__(code, what)
        self.about = about


@dataclass(frozen=True)
class OrderResource:
    """An order (RFC 8555, section 7.1.3)."""

    url: str
    # Section 7.1.6: pending, ready, processing, valid, invalid.
    status: str
    # A URL is empty until the CA gives it.
    authorizations: tuple[str, ...] = ()
    finalize_url: str = ""
    certificate_url: str = ""
    expires_at: datetime | None = None
    problem: Problem | None = None
    retry_after: float | None = None  # seconds


@dataclass(frozen=True)
class ChallengeResource:
    """A challenge (RFC 8555, sections 7.1.5 and 8).

    `key_authorization` is the token with the thumbprint of the account key (section 8.1). It is
    empty when the challenge has no token. `fault` is set when the challenge cannot be read. It only
    matters when this challenge is chosen.
    """

    type: str
    url: str = ""
    status: str = ""  # pending, processing, valid, invalid
    token: str = ""
    key_authorization: str = ""
    problem: Problem | None = None
    fault: Trouble | None = None


@dataclass(frozen=True)
class AuthorizationResource:
    """An authorization with the challenges that the CA offers (RFC 8555, section 7.1.4).

    `chosen` is the type of the challenge that is used. Until one is chosen, it is empty.
    """

    url: str
    identifier: str  # without the "*." of a wildcard
    wildcard: bool
    # Section 7.1.6: pending, valid, invalid, deactivated, expired, revoked.
    status: str
    challenges: tuple[ChallengeResource, ...] = ()
    chosen: str = ""

    def choosing(self, challenge_type: str) -> "AuthorizationResource":
        """Return the authorization with the challenge of this type chosen.

        Raise the Trouble of a challenge that cannot be read.
        """
        seen = replace(self, chosen=challenge_type)
        if seen.challenge and seen.challenge.fault:
            raise seen.challenge.fault
        return seen

    @property
    def challenge(self) -> ChallengeResource | None:
        """Return the chosen challenge, or None when the CA does not offer it."""
        return next((each for each in self.challenges if each.type == self.chosen), None)

    @property
    def challenge_status(self) -> str:
        return self.challenge.status if self.challenge else ""

    @property
    def problem(self) -> Problem | None:
        """Return why the chosen challenge failed.

        When the authorization is not pending, any other challenge may have failed it.
        """
        own = self.challenge.problem if self.challenge else None
        if own or self.status == "pending":
            return own
        return next((each.problem for each in self.challenges if each.problem), None)

    @property
    def name(self) -> str:
        return f"*.{self.identifier}" if self.wildcard else self.identifier

    @property
    def has_failed(self) -> bool:
        """Return whether the authorization can no longer become valid.

        A challenge that is `invalid` decides, even while its authorization is still `pending`.
        """
        return self.status not in ("pending", "valid") or (
            self.status == "pending" and self.challenge_status == "invalid"
        )

    @property
    def gave_up(self) -> bool:
        """Return whether an answered authorization has failed. An error ends it too.

        A challenge in `processing` may have an error while the CA still tries (RFC 8555,
        section 8.2).
        """
        stopped = (
            self.status == "pending"
            and self.challenge_status != "processing"
            and self.problem is not None
        )
        return self.has_failed or stopped


@dataclass(frozen=True)
class AccountResource:
    """An account (RFC 8555, section 7.1.2)."""

    url: str  # the kid
    status: str  # section 7.1.6: valid, deactivated, revoked


@dataclass(frozen=True)
class RenewalInfoResource:
    """When the CA suggests renewing a certificate (RFC 9773, section 4.2)."""

    window_start: datetime
    window_end: datetime
    explanation_url: str = ""  # a page for people, http or https
    retry_after: float | None = None  # seconds

    @classmethod
    def of(
        cls, document: Mapping[str, Any], retry_after: float | None = None
    ) -> "RenewalInfoResource":
        """Read a RenewalInfo object.

        Raise ValueError, TypeError, KeyError or AttributeError when it is not a valid one.
        """
        window = document["suggestedWindow"]
        start = _moment(window["start"])
        end = _moment(window["end"])
        if start >= end:
            raise ValueError("the window ends before it begins")
        return cls(start, end, _link(document.get("explanationURL")), retry_after)


def _moment(text: str) -> datetime:
    """Parse a time of RFC 3339, and return it in UTC.

    Raise ValueError for a year that some database or clock cannot show.
    """
    at = datetime.fromisoformat(text.upper())
    if at.tzinfo is None or not 1970 < at.year < 9999:
        raise ValueError("the time has no time zone, or its year is impossible")
    return at.astimezone(UTC)


def _link(found: Any) -> str:
    is_link = isinstance(found, str) and found.startswith(("https://", "http://"))
    return found if is_link and found.isprintable() and len(found) <= MAX_LINK else ""


class CA(Protocol):
    """One account at one CA. Each call is one exchange, plus one for a nonce when none is kept.

    A call ends within `clock.time_left()`. It does not sleep or poll. Only a request with an old
    nonce is sent again.

    Every call may raise these exceptions:

    - `turns.Trouble`: a retry may help (network, 5xx, rate limits).
    - `Refused`: the CA refused. Its own words are in `what`.
    - `NotYet`: the CA does not show a resource that it named itself.
    - `turns.Wait`: `orderNotReady`.
    """

    def caa_identities(self) -> tuple[str, ...]:
        """Return the names by which CAA records may name this CA, in lower case.

        They come from its directory (RFC 8555, section 7.1.1).
        """

    def register(self) -> AccountResource:
        """Send newAccount with the account key.

        A CA that knows the key returns its existing account.
        """

    def profiles(self) -> Mapping[str, str]:
        """Return the profiles of the directory, each with its description; empty without any."""

    def prepare(self) -> None:
        """Fetch what the next request needs: the directory and a nonce, unless they are kept.

        An order is charged after this call. So a CA that is away costs no token.
        """

    def new_order(
        self, names: Sequence[str], *, profile: str = "", replaces: str = ""
    ) -> OrderResource:
        """Send newOrder for A-labels.

        `profile` is one that the directory lists (draft-ietf-acme-profiles), or empty. `replaces`
        is the ari_id of the certificate to replace (RFC 9773, section 5), or empty.
        """

    def read_order(self, url: str) -> OrderResource:
        """Return the order at the URL."""
        ...

    def read_authorization(self, url: str) -> AuthorizationResource:
        """Return the authorization at the URL."""
        ...

    def answer(self, challenge_url: str) -> str:
        """Ask the CA to check the challenge. A second call changes nothing.

        The order shows the result. Return an empty text, or a sentence why the CA may have missed
        the answer. After such a sentence, answer again.
        """

    def deactivate(self, authorization_url: str) -> None:
        """Deactivate an authorization (RFC 8555, section 7.5.2)."""

    def finalize(self, order: OrderResource, csr_pem: str) -> OrderResource:
        """Send the CSR. Return the order with its new status."""
        ...

    def download(
        self,
        certificate_url: str,
        csr_pem: str = "",
        validity_seconds: int | None = None,
        preferred_chain: str = "",
    ) -> str:
        """Return the chain as PEM, leaf first.

        A private CA signs the CSR in this call. An ACME CA needs only the URL.

        `preferred_chain` is the common name of an issuer. The first chain with that issuer is
        returned, or else the default chain.
        """

    def revoke(self, chain_pem: str, reason: int) -> None:
        """Revoke the leaf. A leaf that is already revoked is a success.

        `reason` is a number of RFC 5280, section 5.3.1.
        """

    def offers_renewal_info(self) -> bool:
        """Return whether the CA offers renewal information, and so accepts `replaces`."""

    def renewal_info(self, ari_id: str) -> RenewalInfoResource | None:
        """Return when the CA wants the certificate renewed; None when the CA does not offer that.

        Raise Refused when the response is not valid. A retry soon would not help.
        """
