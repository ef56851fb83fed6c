"""What a CA's refusal becomes: exceptions for the engine, and every `ca_` code once."""

from dataclasses import dataclass

from certctrl.turns import Trouble

UNKNOWN_ACCOUNT = "ca_account_unknown"
DEACTIVATED = "ca_account_deactivated"
BAD_EAB = "ca_bad_eab"
RATE_LIMITED = "ca_rate_limited"
BAD_NONCE = "ca_bad_nonce"
UNREACHABLE = "ca_unreachable"
ERROR = "ca_error"
NOT_FOUND = "ca_not_found"
BAD_URL = "ca_bad_url"
WRONG_IDENTIFIER = "ca_wrong_identifier"

LIMIT_WAIT = "ca_limit_wait"  # by our own ledger
# What fails so has nothing wrong with it: its turn has not come.
OF_A_LIMIT = frozenset(("ca_rate_limited", LIMIT_WAIT))


class Refused(Trouble):
    """The CA said no, and would say it again: this attempt is over.

    When it is not `permanent` a later attempt may well succeed (a TXT record that was not seen, a CAA record that was
    changed meanwhile); when it is, somebody must change something first.
    """

    ends_attempt = True


class Unexplained(Refused):
    """A refusal without a problem document, which an ACME server has for each (RFC 8555, section 6.7): something in
    between may have said no."""


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
