"""The exceptions for a CA's refusals, and each `ca_` code."""

from dataclasses import dataclass

from certctrl.sentences import sentence as _
from certctrl.turns import Trouble

UNKNOWN_ACCOUNT = "ca_account_unknown"
DEACTIVATED = "ca_account_deactivated"
BAD_EAB = "ca_bad_eab"
RATE_LIMITED = "ca_rate_limited"
PAUSED = "ca_paused"
BAD_NONCE = "ca_bad_nonce"
UNREACHABLE = "ca_unreachable"
ERROR = "ca_error"
NOT_FOUND = "ca_not_found"
BAD_URL = "ca_bad_url"
WRONG_IDENTIFIER = "ca_wrong_identifier"

LIMIT_WAIT = "ca_limit_wait"  # from this server's own ledger
# An attempt that fails with one of these codes has no fault. It only came too early.
OF_A_LIMIT = frozenset(("ca_rate_limited", LIMIT_WAIT))


class Refused(Trouble):
    """The CA refused, and would refuse the same request again. The attempt ends.

    `permanent`: somebody must change something first. If not `permanent`, a later attempt may
    succeed. Examples are a TXT record that the CA did not see, or a CAA record that was changed.
    """


class Unexplained(Refused):
    """A refusal without a problem document.

    An ACME server should send one with each refusal (RFC 8555, section 6.7). So a proxy or a
    firewall may have refused the request.
    """


@dataclass(frozen=True)
class Problem:
    """Why the CA refused (RFC 7807, and RFC 8555, section 6.7). `type` has no `urn:` prefix."""

    type: str
    detail: str
    permanent: bool = False  # a later attempt fails until somebody changes something
    code: str = "ca_refused"  # never changes; `ca_` and the type in snake case

    def __str__(self) -> str:
        return f"{self.detail} ({self.type})"

    def refused(self, what: str) -> Refused:
        """Return the Refused to raise for this problem.

        `what` is a sentence about the refused request. The CA's words follow it.
        """
        return Refused(
            self.code,
            _("%(what)s The CA says: %(said)s", what=what, said=self),
            permanent=self.permanent,
        )
