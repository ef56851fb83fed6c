"""Judge whether CAA records let a CA issue for a name.

The rules are in RFC 8659, and those of the parameters in RFC 8657.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from certctrl.sentences import either
from certctrl.sentences import sentence as _
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

    `what` is a sentence that names the record at fault and says how to fix it. `fix` is the record
    to add, or an empty string.
    """

    code: str
    what: str
    fix: str = ""


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
        _(
            "The CAA record of %(owner)s (%(record)s) is marked critical, and a CA that does "
            "not know the tag %(tag)s must not issue for %(name)s. Remove the record, or set "
            "its flags to 0.",
            owner=policy.owner,
            record=shown(record),
            tag=shown(record.tag),
            name=name,
        ),
    )


def _forbidden(
    name: str, policy: CaaPolicy, tag: str, issuers: Sequence[str], identities: Sequence[str]
) -> Denial:
    allowed = shown(", ".join(issuers))
    if not identities:
        return Denial(
            "caa_forbids",
            _(
                "The CAA records of %(owner)s let nobody issue for %(name)s. Remove them.",
                owner=policy.owner,
                name=name,
            ),
        )
    fix = f'{policy.owner}. CAA 0 {tag} "{identities[0]}"'
    if not allowed:
        return Denial(
            "caa_forbids",
            _(
                "The CAA records of %(owner)s let nobody issue for %(name)s. "
                "Add the record %(fix)s.",
                owner=policy.owner,
                name=name,
                fix=fix,
            ),
            fix,
        )
    return Denial(
        "caa_forbids",
        _(
            "The CAA records of %(owner)s let %(allowed)s issue for %(name)s, and not "
            "%(identities)s: add the record %(fix)s.",
            owner=policy.owner,
            allowed=allowed,
            name=name,
            identities=either(identities),
            fix=fix,
        ),
        fix,
    )


def _other_account(
    name: str, policy: CaaPolicy, ours: Sequence[Permission], account_url: str
) -> Denial:
    wanted = shown(", ".join(value for each in ours for value in each.values("accounturi")), 300)
    return Denial(
        "caa_account",
        _(
            "The CAA records of %(owner)s let %(issuer)s issue for %(name)s to the account "
            "%(wanted)s only (accounturi), and this certificate's account is "
            "%(account_url)s. Name that one there, or use the other one.",
            owner=policy.owner,
            issuer=ours[0].issuer,
            name=name,
            wanted=wanted,
            account_url=account_url,
        ),
    )


def _other_method(name: str, policy: CaaPolicy, ours: Sequence[Permission], method: str) -> Denial:
    methods = shown(", ".join(value for each in ours for value in each.values("validationmethods")))
    return Denial(
        "caa_method",
        _(
            "The CAA records of %(owner)s let %(issuer)s issue for %(name)s only after "
            "%(methods)s (validationmethods), and this server proves names by %(method)s. "
            "Add %(method)s there.",
            owner=policy.owner,
            issuer=ours[0].issuer,
            name=name,
            methods=methods,
            method=method,
        ),
    )
