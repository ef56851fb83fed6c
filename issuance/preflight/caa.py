"""Judge whether CAA records let a CA issue for a name.

The rules are in RFC 8659, and those of the parameters in RFC 8657.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dnsclient.names import shown
from dnsclient.survey import CaaPolicy, CAARecord
from issuance.identifiers import WILDCARD

CRITICAL = 128
# Tags that CAs know, from RFC 8659, RFC 9495, and the contact tags of the Baseline Requirements.
KNOWN_TAGS = (
    "issue",
    "issuewild",
    "iodef",
    "issuemail",
    "issuevmc",
    "contactemail",
    "contactphone",
)


class Denial(NamedTuple):
    """The reason why the CA must refuse.

    `what` is a sentence that names the record at fault and says how to fix it.
    """

    code: str
    what: str


@dataclass(frozen=True)
class Permission:
    """The value of an `issue` or `issuewild` property (RFC 8659, section 4.2).

    An empty issuer permits no CA.
    """

    issuer: str
    parameters: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, record: CAARecord) -> "Permission":
        issuer, *parameters = (each.strip() for each in record.value.split(";"))
        pairs = [each.partition("=") for each in parameters if each]
        if " " in issuer or not all(equals for _, equals, _ in pairs):
            return cls("")  # malformed, so it permits no CA
        return cls(
            issuer.lower().rstrip("."),
            tuple((name.strip().lower(), value.strip()) for name, _, value in pairs),
        )

    def values(self, name: str) -> list[str]:
        return [value for each, value in self.parameters if each == name]

    def is_for_account(self, url: str) -> bool:
        """Return whether `accounturi` permits the account (RFC 8657, section 3).

        Two `accounturi` contradict each other, so they permit no account.
        """
        return not url or self.values("accounturi") in ([], [url])

    def is_for_method(self, method: str) -> bool:
        """Return whether `validationmethods` permits the method (RFC 8657, section 4)."""
        return all(
            method in [each.strip() for each in value.split(",")]
            for value in self.values("validationmethods")
        )


def denial(
    name: str, policy: CaaPolicy, identities: Sequence[str], account_url: str, method: str
) -> Denial | None:
    """Return why a CA with these identities must not issue for the name, or None.

    A wildcard is written `*.name`. Without identities, only rules that hold for every CA are
    checked. Without `account_url`, accounts are not compared. `method` is the type of challenge
    that proves the name.
    """
    for record in policy.records:
        if record.flags & CRITICAL and record.tag not in KNOWN_TAGS:
            return _unknown(name, policy, record)
    tag, properties = _properties(name, policy)
    permissions = [Permission.of(each) for each in properties]
    ours = [
        each
        for each in permissions
        if each.issuer and (each.issuer in identities or not identities)
    ]
    if not properties or (ours and not identities):
        return None
    if any(each.is_for_account(account_url) and each.is_for_method(method) for each in ours):
        return None
    if not ours:
        return _forbidden(
            name,
            policy,
            tag,
            sorted({each.issuer for each in permissions if each.issuer}),
            identities,
        )
    if not any(each.is_for_account(account_url) for each in ours):
        return _other_account(name, policy, ours, account_url)
    own = [each for each in ours if each.is_for_account(account_url)]
    return _other_method(name, policy, own, method)


def _properties(name: str, policy: CaaPolicy) -> tuple[str, list[CAARecord]]:
    """Return the tag that counts for the name, and its records.

    For wildcards `issuewild` overrides `issue` (RFC 8659, section 4.3).
    """
    wild = [each for each in policy.records if each.tag == "issuewild"]
    if name.startswith(WILDCARD) and wild:
        return "issuewild", wild
    return "issue", [each for each in policy.records if each.tag == "issue"]


def _unknown(name: str, policy: CaaPolicy, record: CAARecord) -> Denial:
    return Denial(
        "caa_critical",
        f"The CAA record of {policy.owner} ({shown(record)}) is marked critical, and a CA that"
        f" does not know the tag {shown(record.tag)} must not issue for {name}. Remove the record,"
        " or set its flags to 0.",
    )


def _forbidden(
    name: str, policy: CaaPolicy, tag: str, issuers: Sequence[str], identities: Sequence[str]
) -> Denial:
    allowed = shown(", ".join(issuers)) or "nobody"
    if not identities:
        return Denial(
            "caa_forbids",
            f"The CAA records of {policy.owner} let nobody issue for {name}. Remove them.",
        )
    return Denial(
        "caa_forbids",
        f"The CAA records of {policy.owner} let {allowed} issue for {name}, and not"
        f" {' or '.join(identities)}:"
        f' add the record {policy.owner}. CAA 0 {tag} "{identities[0]}".',
    )


def _other_account(
    name: str, policy: CaaPolicy, ours: Sequence[Permission], account_url: str
) -> Denial:
    wanted = shown(", ".join(value for each in ours for value in each.values("accounturi")), 300)
    return Denial(
        "caa_account",
        f"The CAA records of {policy.owner} let {ours[0].issuer} issue for {name} to the account"
        f" {wanted} only (accounturi), and this certificate's account is {account_url}. Name that"
        " one there, or use the other one.",
    )


def _other_method(name: str, policy: CaaPolicy, ours: Sequence[Permission], method: str) -> Denial:
    methods = shown(", ".join(value for each in ours for value in each.values("validationmethods")))
    return Denial(
        "caa_method",
        f"The CAA records of {policy.owner} let {ours[0].issuer} issue for {name} only after"
        f" {methods} (validationmethods), and this server proves names by {method}. Add {method}"
        " there.",
    )
