"""Turn a parsed request into names, the owner's rows, and a key type."""

import re
from collections.abc import Mapping
from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from accounts.models import User
from authorities import accounts, catalog, pki
from authorities.models import AcmeAccount
from certctrl.errors import Invalid, MissingField, NotFound
from certctrl.sentences import sentence as _
from certctrl.statements import Parameter, select
from dnsproviders import registry
from dnsproviders.models import DnsCredential
from issuance import identifiers, services
from issuance.challenges import delegation
from issuance.challenges import registry as challenges
from issuance.models import Certificate, digest
from issuance.services import CertificateSpec, Idempotency

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key", str, OpenApiParameter.HEADER, description="at most 255 characters"
)


def idempotency(request: Request) -> Idempotency | None:
    """Return the request's Idempotency-Key with a digest of the request; None without the header.

    Raise Invalid when the key is too long or not printable.
    """
    key = request.headers.get("Idempotency-Key", "")
    if not key:
        return None
    if len(key) > 255 or not key.isprintable():
        raise Invalid(
            _("An Idempotency-Key has at most 255 printable characters."), field="Idempotency-Key"
        )
    path = request.path.split("/me/", 1)[-1].split(f"/users/{request.user.pk}/", 1)[-1]
    return Idempotency(key, digest(request.method, path, request.data))


def spec_of(
    owner: User,
    given: Mapping[str, Any],
    account: AcmeAccount | None = None,
    credential: DnsCredential | None = None,
) -> CertificateSpec:
    """Return the specification of a new certificate.

    A caller that has read the account or the credential of the owner already hands it in.

    Raise Invalid or MissingField with the `field`. Raise NotFound when a row is not the owner's.
    """
    if not given["domain"]:
        raise MissingField(
            _("The member domain is missing. Give the first name of the certificate."),
            field="domain",
        )
    account = account or _account(owner, given["account"])
    sans = given["sans"] or []
    most = catalog.info(account.ca_provider).max_names
    by_agent = not challenges.is_in_zone(given["columns"].get("verify_method"))
    wanted = identifiers.normalize_names(
        [given["domain"], *sans], most, private=account.is_private, addresses=by_agent
    )
    credential = credential or _credential(owner, given)
    if account.is_private or by_agent:
        credential = None  # no TXT records are needed
    elif given["issues_at_once"] and not (credential or delegation.is_offered()):
        raise MissingField(
            _("The member dns_provider_id is missing. Give the id of a DNS credential."),
            field="dns_provider_id",
        )
    key_type, key_size = _key(account, given)
    return CertificateSpec(wanted, account, credential, key_type, key_size, given["columns"])


def changes_of(owner: User, certificate: Certificate, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that an update changes.

    Raise Invalid for other names, because other names are another certificate. Raise MissingField
    or NotFound for a missing row.
    """
    changes = dict(given["columns"])
    if given["account"]:
        changes["account"] = _account(owner, given["account"])
    if given["has_dns"]:
        changes["credential"] = _credential(owner, given)
    if given["key_type"] or given["key_size"] is not None:
        account = changes.get("account", certificate.account)
        whole = {
            "key_type": given["key_type"] or certificate.key_type,
            "key_size": given["key_size"],
        }
        changes["key_type"], changes["key_size"] = _key(account, whole)
    sans = certificate.sans if given["sans"] is None else given["sans"]
    private = changes.get("account", certificate.account).is_private
    method = changes.get("verify_method", certificate.verify_method)
    wanted = identifiers.normalize_names(
        [given["domain"] or certificate.domain, *sans],
        private=private,
        addresses=not challenges.is_in_zone(method),
    )
    if wanted[0] != certificate.domain or set(wanted) != set(certificate.names):
        raise Invalid(
            _("The names of a certificate do not change. Create one with the other names."),
            field="sans",
        )
    return changes


def _account(owner: User, pk: int | None) -> AcmeAccount:
    if not pk:
        raise MissingField(
            _("The member acme_account_id is missing. Give the id of an ACME account."),
            field="acme_account_id",
        )
    found = _accounts(owner=owner.pk, pk=pk)
    if not found:
        raise accounts.no_account(pk)
    account: AcmeAccount = found[0]
    return account


@select
def _accounts(owner: Parameter, pk: Parameter) -> QuerySet[AcmeAccount]:
    return AcmeAccount.objects.filter(owner=owner, pk=pk, retired_at=None)


@select
def _credentials(owner: Parameter, pk: Parameter) -> QuerySet[DnsCredential]:
    rows = DnsCredential.objects.filter(owner=owner, pk=pk, retired_at=None)
    return rows.select_related("disablement")


def _credential(owner: User, given: Mapping[str, Any]) -> DnsCredential | None:
    """Return the owner's credential: by its id, or by a provider's name.

    A provider's name works only when the owner has exactly one credential for that provider.
    """
    wanted = given["dns"]
    if wanted is None:
        return None
    if isinstance(wanted, str) and not re.fullmatch("[0-9]{1,18}", wanted):
        return _only_one(DnsCredential.objects.filter(owner=owner, retired_at=None), wanted)
    if isinstance(wanted, bool) or not isinstance(wanted, int | str) or not 0 < int(wanted) < 2**62:
        raise Invalid(
            _("dns_provider_id must be the id of a DNS credential."), field="dns_provider_id"
        )
    found = _credentials(owner=owner.pk, pk=int(wanted))
    if not found:
        raise services.no_credential(int(wanted))
    credential: DnsCredential = found[0]
    return credential


def _only_one(rows: QuerySet[DnsCredential], name: str) -> DnsCredential:
    try:
        provider = registry.provider_id(name)
    except Invalid as unknown:
        raise Invalid(
            _(
                "dns_provider_id must be an id or the name of a provider. %(unknown)s",
                unknown=unknown,
            ),
            field="dns_provider_id",
        ) from None
    found = list(rows.filter(provider=provider)[:2])
    if not found:
        raise NotFound(
            _("You have no DNS credential for %(provider)s. Create one first.", provider=provider),
            field="dns_provider_id",
        )
    if len(found) > 1:
        raise Invalid(
            _(
                "You have several credentials for %(provider)s. Give the id of one.",
                provider=provider,
            ),
            field="dns_provider_id",
        )
    credential: DnsCredential = found[0]
    return credential


def _key(account: AcmeAccount, given: Mapping[str, Any]) -> tuple[str, int]:
    """Return key type and size (bits): from the request, or from the account, or ECDSA P-256."""
    key_type = given["key_type"] or account.defaults.get("key_type") or "ecdsa"
    if key_type not in pki.KEY_SIZES:
        raise Invalid(_("key_type must be ecdsa or rsa."), field="key_type")
    key_size = given["key_size"]
    if key_size is None:
        default = (
            account.defaults.get("key_size")
            if account.defaults.get("key_type") == key_type
            else None
        )
        key_size = default or min(pki.KEY_SIZES[key_type])
    if key_size not in pki.KEY_SIZES[key_type]:
        sizes = ", ".join(str(size) for size in pki.KEY_SIZES[key_type])
        raise Invalid(
            _(
                "key_size must be one of %(sizes)s for %(key_type)s.",
                sizes=sizes,
                key_type=key_type,
            ),
            field="key_size",
        )
    return key_type, key_size
