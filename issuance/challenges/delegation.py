"""Prove names in the operator's service zone by CNAME delegation.

This is for certificates without a DNS credential of their own. The owner sets one CNAME for each
name, once. The operator's credential writes the TXT records of a certificate at
`<public_id>.<SERVICE_ZONE>` and nowhere else. If it wrote at other names, one tenant could get
certificates for the names of another tenant.
"""

from collections.abc import Sequence
from typing import Any

from django.conf import settings

from authorities.errors import Refused
from certctrl import clock
from certctrl.errors import Invalid
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble
from dnsclient import cnames
from dnsclient.cnames import CnamePath
from dnsproviders.models import DnsCredential
from issuance.identifiers import bases
from issuance.models import Certificate, Issuance


def is_offered() -> bool:
    """Return whether this server has a service zone."""
    return bool(settings.SERVICE_ZONE)


def is_delegated(certificate: Certificate) -> bool:
    """Return whether the certificate relies on the service zone."""
    if not is_offered() or certificate.credential_id or certificate.account.is_private:
        return False
    return certificate.verify_method == Certificate.VerifyMethod.DNS_01


def target_of(certificate: Certificate) -> str:
    """Return the name where the TXT records of the certificate are written.

    The challenges must lead to this name in the service zone.
    """
    return f"{certificate.public_id}.{settings.SERVICE_ZONE}"


def credential_for(certificate: Certificate) -> DnsCredential | None:
    """Return the DNS credential that writes the TXT records of the next attempt.

    This is the operator's credential if the certificate relies on the service zone. Otherwise it is
    the certificate's own.
    """
    return operators_credential() if is_delegated(certificate) else certificate.credential


def credential_ids_for(certificates: Sequence[Certificate]) -> dict[int, int | None]:
    """Return the ids of the credentials of `credential_for`, by certificate id.

    This takes one query at most.
    """
    ids = {each.pk: each.credential_id for each in certificates}
    delegated = [each.pk for each in certificates if is_delegated(each)]
    operators = operators_credential() if delegated else None
    return ids | dict.fromkeys(delegated, operators.pk if operators else None)


def operators_credential() -> DnsCredential | None:
    """Return the credential that SERVICE_DNS_CREDENTIAL names, or None.

    The credential must belong to a member of staff. Otherwise a wrong digit in the setting would
    let the credential of a tenant write for all certificates.
    """
    wanted = DnsCredential.objects.filter(
        pk=settings.SERVICE_DNS_CREDENTIAL, retired_at=None, owner__is_staff=True
    )
    return wanted.select_related("disablement").first()


def lacking(certificate: Certificate) -> str:
    """Return the sentence about a certificate whose TXT records no credential can write."""
    if is_delegated(certificate):
        return _(
            "The service zone %(service_zone)s cannot be written, because "
            "SERVICE_DNS_CREDENTIAL names no credential of this server's staff. Ask the "
            "operator, or set dns_provider_id of %(domain)s.",
            service_zone=settings.SERVICE_ZONE,
            domain=certificate.domain,
        )
    return _(
        "%(domain)s has no DNS credential, which the CA's challenge needs. Set dns_provider_id.",
        domain=certificate.domain,
    )


class OperatorsTrouble(Trouble):
    """A trouble with the operator's credential, in words for the owner of the certificate.

    `said` has the words of the DNS provider. They are for the operator only, because they may name
    other zones.
    """

    def __init__(self, trouble: Trouble) -> None:
        what = _(
            "The service zone %(zone)s could not be written. This is no fault of yours. The "
            "operator of this server can see the reason at the DNS credential.",
            zone=settings.SERVICE_ZONE,
        )
        super().__init__(
            trouble.code,
            what if trouble.permanent else _("%(what)s It is retried.", what=what),
            trouble.permanent,
            trouble.retry_after,
        )
        self.said = trouble.what


def for_owner(
    certificate: Certificate, credential: DnsCredential | None, trouble: Trouble
) -> Trouble:
    """Return the trouble with a credential as the certificate's owner may read it."""
    is_own = not credential or credential.owner_id == certificate.owner_id
    return trouble if is_own else OperatorsTrouble(trouble)


def only_target(certificate: Certificate, credential: DnsCredential | None) -> str:
    """Return the one name at which the credential may write for the certificate.

    Return an empty string for the certificate's own credential, which writes wherever the
    challenges lead. A credential that was its own when the attempt began counts as its own.
    """
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


def refuse_elsewhere(issuance: Issuance, path: CnamePath) -> None:
    """Raise Refused if the credential may not write where the challenge leads.

    The code is `delegation_missing`.
    """
    target = only_target(issuance.certificate, issuance.credential)
    if target and path.final != target:
        raise Refused("delegation_missing", missing(path, target))


def missing(path: CnamePath, target: str) -> str:
    """Return the sentence about a challenge that does not lead to its target.

    The sentence says which record to set, and what is there now.
    """
    if path.trouble:
        return path.trouble.what
    challenge = path.names[0]
    if path.final != challenge:
        there = _("It leads to %(final)s now", final=path.final)
    elif path.wildcard:
        there = _(
            "A wildcard leads to %(wildcard)s now, and no challenge follows a wildcard",
            wildcard=path.wildcard,
        )
    else:
        there = _("It has no CNAME now")
    return _(
        "%(challenge)s must be a CNAME to %(target)s. %(there)s. Set the record "
        "%(challenge)s. CNAME %(target)s.",
        challenge=challenge,
        target=target,
        there=there,
    )


# --- For the owner of the certificate ---


def shown(certificate: Certificate) -> dict[str, Any] | None:
    """Return the CNAMEs to set, and whether they were seen.

    Return None if the certificate needs no CNAMEs.
    """
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
    """Check that the CNAME of each name is there, and store the result in `verified`.

    Raise Invalid for the first name without the right CNAME. The error says what is there now. If
    only lookups failed, the error says why, and `verified` stays as it was. Raise Invalid also if
    the certificate does not rely on the service zone.
    """
    if not is_offered():
        raise Invalid(
            _("This server has no service zone. Set dns_provider_id of the certificate."),
            field="action",
        )
    if not is_delegated(certificate):
        what = _(
            "%(domain)s does not use the service zone, so it has no CNAME to verify.",
            domain=certificate.domain,
        )
        raise Invalid(what, field="action")
    target = target_of(certificate)
    paths = cnames.follow(bases(certificate.names), clock.time_left()).values()
    wrong = [path for path in paths if path.trouble or path.final != target]
    surely = [path for path in wrong if not path.is_unknown]
    if surely or not wrong:
        certificate.verified = not wrong
        Certificate.objects.filter(pk=certificate.pk).update(
            verified=certificate.verified, updated_at=clock.now()
        )
    for path in surely or wrong:
        raise Invalid(missing(path, target), field="action")
