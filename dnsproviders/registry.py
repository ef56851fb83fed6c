"""The list of DNS providers.

To add one: copy a file of `dnsproviders/providers/`, add a line to PROVIDERS, a test, and a page
in `docs/providers/`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from django.views.decorators.debug import sensitive_variables

from certctrl import errors, outgoing
from certctrl.lanes import Lane
from certctrl.log import Secret
from certctrl.sentences import joined
from certctrl.sentences import sentence as _
from certctrl.turns import Wait
from dnsproviders.base import COMMON_FIELDS, Field, Provider, ProviderError
from dnsproviders.models import DisabledProvider, DnsCredential
from keystore import envelope
from keystore.models import Envelope

PROVIDERS = {
    "cloudflare": "dnsproviders.providers.cloudflare.Cloudflare",
    "aliyun": "dnsproviders.providers.aliyun.Aliyun",
    "rfc2136": "dnsproviders.providers.rfc2136.RFC2136",
    "httpreq": "dnsproviders.providers.httpreq.HttpReq",
}
ALIASES = {"ali": "aliyun"}
# Most calls and most seconds, a year, in DNS_API_LIMITS. Python's times cannot hold much larger
# numbers, and JSON also allows Infinity.
MOST_OF_A_LIMIT = 366 * 24 * 3600
# Seconds until an attempt asks again whether its provider is enabled. To enable it wakes them all.
DISABLED_REST = 900.0


class Disabled(Wait):
    """The turn needs a provider that the operator has disabled. Nothing was called."""


def provider_id(name: str) -> str:
    """Return the stored id for an id or an alias, in upper or lower case.

    Raise Invalid, with the list of all ids, for an unknown name.
    """
    known = ALIASES.get(name.lower(), name.lower())
    if known not in PROVIDERS:
        raise errors.Invalid(
            _(
                "There is no such DNS provider. Give one of %(providers)s.",
                providers=", ".join(PROVIDERS),
            ),
            field="provider",
        )
    return known


def provider_class(name: str) -> type[Provider]:
    """Return the class for an id or an alias. Raise Invalid for an unknown name."""
    found: type[Provider] = import_string(PROVIDERS[provider_id(name)])
    return found


def what_is_disabled(row: DisabledProvider) -> str:
    """Return the sentence that every owner may read about a disabled provider."""
    return _(
        "The DNS provider %(provider)s is disabled on this server. The reason: %(why)s.",
        provider=provider_class(row.provider).name,
        why=row.why.rstrip(" .\N{IDEOGRAPHIC FULL STOP}"),
    )


def refuse_disabled(row: DisabledProvider | None) -> None:
    """Raise Conflict if there is a row, because the provider is disabled."""
    if row:
        choose = _("Choose another provider, or try again when it is enabled.")
        raise errors.Conflict(joined(" ", [what_is_disabled(row), choose]), field="provider")


# The unsealed secrets of credentials, by the credential's id and the envelope's.
_unsealed_once: ContextVar[dict[tuple[int, int | None], dict[str, Secret]] | None] = ContextVar(
    "_unsealed_once", default=None
)


@contextmanager
def unsealing_once() -> Iterator[None]:
    """Unseal the secret of each credential only once inside the body, and forget it at the end."""
    token = _unsealed_once.set({})
    try:
        yield
    finally:
        _unsealed_once.reset(token)


def open_credential(credential: DnsCredential) -> Provider:
    """Return the provider with the credential's unsealed secrets, for the calls of one turn.

    Raise Disabled while the provider is disabled.
    """
    if row := credential.disabled:
        raise Disabled(DISABLED_REST, what_is_disabled(row))
    return provider_with(credential)


@sensitive_variables()
def provider_with(credential: DnsCredential) -> Provider:
    """Return the provider as `open_credential` does, also a disabled one. It only cleans up."""
    known = _unsealed_once.get()
    secret = known.get((credential.pk, credential.secret_id)) if known else None
    if secret is None:
        secret = {name: Secret(value) for name, value in secrets_of(credential).items()}
        if known is not None:  # the credential may have been read again
            known[credential.pk, credential.secret_id] = secret
    return provider_class(credential.provider)(credential, secret, outgoing.session())


@sensitive_variables()
def secrets_of(credential: DnsCredential) -> dict[str, str]:
    """Return the unsealed secret fields. Keep them inside one function.

    A credential that was changed in the meantime is read again as a whole. A new secret then never
    goes to an old endpoint. Raise ProviderError when the secrets were pruned.
    """
    try:
        return _unsealed(credential)
    except (Envelope.DoesNotExist, envelope.CannotOpen):
        credential.refresh_from_db()
        return _unsealed(credential)


@sensitive_variables()
def _unsealed(credential: DnsCredential) -> dict[str, str]:
    if credential.secret is None:
        what = _(
            "The DNS credential %(name)s and its secret were deleted. Choose another one.",
            name=credential.name,
        )
        raise ProviderError("dns_credential_refused", what, permanent=True)
    opened: dict[str, str] = json.loads(envelope.unseal(credential.secret))
    return opened


def lane_of(provider: str, party: str, credential_id: int) -> Lane:
    """Return the lane of calls with a credential, given the columns of its row.

    Credentials for the same host share one, and so do all credentials of a provider with one API.
    """
    kind = provider_class(provider)
    if not kind.is_named_by_owner:
        return Lane(f"api:{provider}", _("the DNS API of %(name)s", name=kind.name))
    where = party or str(credential_id)
    return Lane(
        f"api:{provider}:{where}",
        _("the DNS server %(party)s", party=party) if party else _("the DNS API"),
    )


def lane_of_credential(credential: DnsCredential) -> Lane:
    return lane_of(credential.provider, credential.party, credential.pk)


def check_api_limits() -> None:
    """Raise ImproperlyConfigured when the setting DNS_API_LIMITS has a wrong shape.

    The shape is {provider id: [calls, seconds] or null}.
    """
    given = settings.DNS_API_LIMITS
    for name, limit in given.items() if isinstance(given, dict) else [("it", given)]:
        if name not in PROVIDERS or not (limit is None or _is_limit(limit)):
            raise ImproperlyConfigured(
                f"DNS_API_LIMITS has a wrong entry {name}. Names are {', '.join(PROVIDERS)}, "
                "values are [calls, seconds] or null."
            )


def _is_limit(given: Any) -> bool:
    numbers = isinstance(given, list) and [type(each) for each in given] in (
        [int, int],
        [int, float],
    )
    return numbers and all(0 < each <= MOST_OF_A_LIMIT for each in given)


def catalog() -> list[dict[str, Any]]:
    """Return each provider with its own fields and then the common ones.

    This is the answer of GET /apiv1/dns/providers/catalog.
    """
    disabled = {each.provider: each for each in DisabledProvider.objects.all()}
    return [_entry(each, provider_class(each), disabled.get(each)) for each in PROVIDERS]


def _entry(
    name: str, provider: type[Provider], disabled: DisabledProvider | None
) -> dict[str, Any]:
    return {
        "id": name,
        "name": str(provider.name),
        "fields": [_shown(field) for field in (*provider.fields, *COMMON_FIELDS)],
        "disabled_at": disabled and int(disabled.disabled_at.timestamp()),
        "note": what_is_disabled(disabled) if disabled else "",
    }


def _shown(field: Field) -> dict[str, Any]:
    shown = {
        "name": field.name,
        "label": str(field.label),
        "required": field.required,
        "secret": field.secret,
    }
    shown |= {
        "help": str(field.help),
        "type": "integer" if field.integer else "string",
        "default": field.default,
    }
    return shown | ({"choices": list(field.choices)} if field.choices else {})
