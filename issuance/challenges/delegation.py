"""CNAME delegation: a certificate without a DNS credential of its own is proved in the operator's service zone.

Its owner sets one CNAME for each name, once. The TXT records go to the certificate's own `<public_id>.<SERVICE_ZONE>`
through the operator's credential, and nowhere else: whoever could have it write at another name could have another
tenant's names certified.
"""

from collections.abc import Sequence
from typing import Any

from django.conf import settings

from authorities.errors import Refused
from certctrl import clock
from certctrl.errors import Invalid
from certctrl.turns import Trouble
from dnsclient import cnames
from dnsclient.cnames import Chain
from dnsproviders.models import DnsCredential
from issuance.identifiers import bases
from issuance.models import Certificate, Issuance


def is_offered() -> bool:
    """Whether this server has a service zone."""
    return bool(settings.SERVICE_ZONE)


def is_delegated(certificate: Certificate) -> bool:
    """Whether the certificate relies on the service zone."""
    return is_offered() and not certificate.credential_id and not certificate.account.is_private


def target_of(certificate: Certificate) -> str:
    """Where its challenges must lead, and its TXT records are written."""
    return f"{certificate.public_id}.{settings.SERVICE_ZONE}"


def credential_for(certificate: Certificate) -> DnsCredential | None:
    """Who writes the TXT records of its next attempt: its own credential, else the operator's for the service zone."""
    return operators_credential() if is_delegated(certificate) else certificate.credential


def credential_ids_for(certificates: Sequence[Certificate]) -> dict[int, int | None]:
    """The same for many, by their primary keys: the ids of the credentials, in one query at most."""
    ids = {each.pk: each.credential_id for each in certificates}
    delegated = [each.pk for each in certificates if is_delegated(each)]
    operators = operators_credential() if delegated else None
    return ids | dict.fromkeys(delegated, operators.pk if operators else None)


def operators_credential() -> DnsCredential | None:
    """The credential that SERVICE_DNS_CREDENTIAL names. It must be one of staff: a slip of a digit would have another
    tenant's credential write for everybody."""
    wanted = DnsCredential.objects.filter(
        pk=settings.SERVICE_DNS_CREDENTIAL, retired_at=None, owner__is_staff=True
    )
    return wanted.first()


def lacking(certificate: Certificate) -> str:
    """The sentence about a certificate whose TXT records nobody can write."""
    if is_delegated(certificate):
        return (
            f"The service zone {settings.SERVICE_ZONE} cannot be written: SERVICE_DNS_CREDENTIAL names no credential of"
            f" this server's staff. Ask its operator, or give {certificate.domain} a DNS credential: dns_provider_id."
        )
    return f"{certificate.domain} has no DNS credential, which the CA's challenge needs: set dns_provider_id."


class OperatorsTrouble(Trouble):
    """Of the operator's credential, in words for the certificate's owner. `said`: what the provider said, for the
    operator alone, since it may name other zones."""

    def __init__(self, trouble: Trouble) -> None:
        tried = "" if trouble.permanent else " It is tried again."
        super().__init__(
            trouble.code,
            f"The service zone {settings.SERVICE_ZONE} could not be written, through no fault of yours; this server's"
            f" operator can see why at the DNS credential.{tried}",
            trouble.permanent,
            trouble.retry_after,
        )
        self.said = trouble.what


def for_owner(
    certificate: Certificate, credential: DnsCredential | None, trouble: Trouble
) -> Trouble:
    """The trouble with a credential, as the certificate's owner may read it."""
    is_own = not credential or credential.owner_id == certificate.owner_id
    return trouble if is_own else OperatorsTrouble(trouble)


def only_target(certificate: Certificate, credential: DnsCredential | None) -> str:
    """The one name at which this credential may write for the certificate; empty: the credential is the certificate's
    own, or was when the attempt began, and writes wherever the challenges lead."""
    if not credential:
        return ""
    is_operators = (
        credential.pk == settings.SERVICE_DNS_CREDENTIAL
        and certificate.credential_id != credential.pk
    )
    return (
        target_of(certificate)
        if is_operators or credential.owner_id != certificate.owner_id
        else ""
    )


def refuse_elsewhere(issuance: Issuance, name: str, final: str) -> None:
    """Raise Refused where the challenge of `name` leads elsewhere than the attempt's credential may write."""
    target = only_target(issuance.certificate, issuance.credential)
    if target and final != target:
        raise Refused(
            "delegation_missing", missing(Chain((cnames.challenge_of(name), final)), target)
        )


def missing(chain: Chain, target: str) -> str:
    """The sentence about a challenge that does not lead to its target: what is to be set, and what is there instead."""
    if chain.trouble:
        return chain.trouble.what
    challenge = chain.names[0]
    if chain.final != challenge:
        there = f"it leads to {chain.final}"
    elif chain.wildcard:
        there = f"there is only a wildcard's to {chain.wildcard}, which no challenge follows"
    else:
        there = "there is none"
    return f"{challenge} must be a CNAME to {target}, and {there}: set the record {challenge}. CNAME {target}."


# --- What its owner sees and asks ---


def shown(certificate: Certificate) -> dict[str, Any] | None:
    """The CNAMEs to set, and whether they were seen; None for a certificate that needs none."""
    if not is_delegated(certificate):
        return None
    target = target_of(certificate)
    return {
        "zone": settings.SERVICE_ZONE,
        "target": target,
        "cnames": [
            {"name": cnames.challenge_of(name), "target": target}
            for name in bases(certificate.names)
        ],
        "verified": certificate.verified,
    }


def verify(certificate: Certificate) -> None:
    """Look whether the CNAME of each name is there, and keep the answer in `verified`.

    Raises Invalid that names the first one which is not, and what it has instead; or says why nobody can tell.
    """
    if not is_offered():
        raise Invalid(
            "This server has no service zone: give the certificate a DNS credential.",
            field="action",
        )
    if not is_delegated(certificate):
        what = (
            f"{certificate.domain} does not rely on the service zone: there is no CNAME to verify."
        )
        raise Invalid(what, field="action")
    target = target_of(certificate)
    chains = cnames.follow(bases(certificate.names), clock.time_left()).values()
    wrong = [chain for chain in chains if chain.trouble or chain.final != target]
    surely = [chain for chain in wrong if not chain.is_unknown]
    if surely or not wrong:
        certificate.verified = not wrong
        Certificate.objects.filter(pk=certificate.pk).update(
            verified=certificate.verified, updated_at=clock.now()
        )
    for chain in surely or wrong:
        raise Invalid(missing(chain, target), field="action")
