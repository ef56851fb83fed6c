"""The services for DNS credentials: create, change, check, retire."""

import json
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

from django.conf import settings
from django.db import transaction
from django.views.decorators.debug import sensitive_variables

from accounts import audit, quotas
from accounts.models import User
from certctrl import clock, errors, watching
from certctrl.sentences import sentence as _
from dnsclient.cnames import WRITABLE, challenge_of
from dnsclient.names import a_label
from dnsproviders import records, registry
from dnsproviders.base import COMMON_FIELDS, Field, Provider, ProviderError
from dnsproviders.models import DisabledProvider, DnsCredential
from keystore import envelope

PURPOSE = "dns_credential"


class CheckFailed(errors.ApiError):
    """The check of a credential failed.

    The status is 400 when the provider refused the credential. It is 502 when the provider did not
    answer, or gave an unknown answer. `params["dns"]` is the code of the ProviderError.
    """

    code, key = 20010, "DNS::CHECK_FAILED"


class Given(NamedTuple):
    """The checked members of a request, by the place where they are stored."""

    public: dict[str, Any]
    secret: dict[str, str]
    common: dict[str, Any]


@sensitive_variables()
def create_credential(owner: User, data: object) -> DnsCredential:
    """Check and store a credential, with sealed secrets.

    `data` has "provider", the fields of that provider, and the common fields. After an error,
    nothing is stored. Raise Invalid or MissingField. `params["field"]` names the member. Raise
    Conflict while the provider is disabled.
    """
    data = _members(data)
    provider_id = registry.provider_id(_provider_named(data))
    registry.refuse_disabled(DisabledProvider.objects.filter(provider=provider_id).first())
    provider = registry.provider_class(provider_id)
    given = _given(provider, data)
    _check_whole(provider, given)
    defaults = _common_defaults(provider)
    public = _default_public(provider) | given.public
    with transaction.atomic():
        quotas.refuse_more(owner, "dns_credentials")
        credential = DnsCredential.objects.create(
            owner=owner,
            provider=provider_id,
            public=public,
            party=provider.party(public),
            secret=envelope.seal(owner, PURPOSE, json.dumps(given.secret).encode()),
            **(defaults | given.common),
        )
        audit.note_row(
            credential, "dns_credential.created", name=credential.name, provider=provider_id
        )
    return credential


@sensitive_variables()
def update_credential(credential: DnsCredential, data: object) -> DnsCredential:
    """Change the members in `data`, and keep the others. null removes an optional member.

    A new destination for the secrets (`Field.gets_secrets`) needs the secrets again.
    Raise Invalid or MissingField. Raise Conflict for a retired credential.
    """
    data = _members(data)
    provider = registry.provider_class(credential.provider)
    if "provider" in data and registry.provider_id(_provider_named(data)) != credential.provider:
        raise errors.Invalid(
            _("The provider cannot be changed. Create another credential."), field="provider"
        )
    with transaction.atomic():
        row = (
            DnsCredential.objects.select_for_update(of=("self",))
            .select_related("owner", "secret")
            .get(pk=credential.pk)
        )
        if row.retired_at:
            raise errors.Conflict(_("The DNS credential %(name)s was deleted.", name=row.name))
        _change(row, provider, data)
    credential.refresh_from_db()
    return credential


@sensitive_variables()
def _change(row: DnsCredential, provider: type[Provider], data: Mapping[str, Any]) -> None:
    given = _given(provider, data)
    gone = {name for name, value in data.items() if _is_empty(value)}
    old_secret = registry.secrets_of(row)
    whole = Given(
        _merged(row.public, given.public, gone),
        _merged(old_secret, given.secret, gone),
        given.common,
    )
    _check_whole(provider, whole)
    _check_destination(provider, row.public, whole, given.secret)
    old = row.secret
    if (whole.public, whole.secret) != (row.public, old_secret):
        row.checked_at = None
        row.last_error = ""
    row.public = _default_public(provider) | whole.public
    row.party = provider.party(row.public)
    if whole.secret != old_secret:
        row.secret = envelope.seal(row.owner, PURPOSE, json.dumps(whole.secret).encode())
    defaults = {name: value for name, value in _common_defaults(provider).items() if name in gone}
    for name, value in (defaults | given.common).items():
        setattr(row, name, value)
    row.save()
    audit.note_row(
        row,
        "dns_credential.changed",
        name=row.name,
        members=sorted(given.public | given.common) + sorted(gone),
        secrets=sorted(given.secret),
    )
    if old and row.secret_id != old.pk:
        old.delete()


def retire_credential(credential: DnsCredential) -> None:
    """Retire the credential. A second call changes nothing.

    Raise Conflict in these cases:

    - The credential writes the service zone (SERVICE_DNS_CREDENTIAL).
    - A certificate or an open attempt uses it.
    - A record that it wrote may still be in its zone.
    """
    if credential.pk == settings.SERVICE_DNS_CREDENTIAL:
        what = _(
            "%(name)s is the credential of the service zone %(service_zone)s, which "
            "certificates use.",
            name=credential.name,
            service_zone=settings.SERVICE_ZONE,
        )
        raise errors.Conflict(
            _("%(what)s Name another one in SERVICE_DNS_CREDENTIAL first.", what=what)
        )
    with transaction.atomic():
        # Code that makes a certificate refer to the row takes this lock too. Under the lock it
        # checks that the credential is not retired.
        row = DnsCredential.objects.select_for_update().get(pk=credential.pk)
        used_by = row.certificates.filter(retired_at=None).order_by("pk").first()
        if used_by:
            raise errors.Conflict(
                _(
                    "%(used_by)s uses the DNS credential %(name)s. Give it another one, or "
                    "delete it.",
                    used_by=used_by,
                    name=row.name,
                )
            )
        busy = row.issuances.filter(wake_at__isnull=False).select_related("certificate").first()
        if busy:
            raise errors.Conflict(
                _(
                    "An attempt for %(certificate)s still uses %(name)s. Cancel it, or try "
                    "again later.",
                    certificate=busy.certificate,
                    name=row.name,
                )
            )
        left = row.records.filter(intent_at__isnull=False, cleaned_at=None).order_by("pk").first()
        if left:
            what = _(
                "The record %(name)s may still be in its zone, and %(row_name)s must "
                "remove it. Try again later.",
                name=left.name,
                row_name=row.name,
            )
            if left.left_behind:
                what = _(
                    "The record %(name)s could not be removed from its zone: %(why)s Correct "
                    "%(row_name)s first, or ask the staff to mark the record as removed by hand.",
                    name=left.name,
                    why=left.left_behind,
                    row_name=row.name,
                )
            raise errors.Conflict(what)
        if DnsCredential.objects.filter(pk=row.pk, retired_at=None).update(retired_at=clock.now()):
            audit.note_row(row, "dns_credential.deleted", name=row.name)
    credential.refresh_from_db()


def check_credential(credential: DnsCredential, name: str = "") -> list[watching.ApiCall]:
    """Ask the provider whether it accepts the credential. Return the calls.

    With `name`, write a TXT record as for a challenge of this name, and remove it. Else only read.

    Store the result in `checked_at` and `last_error`. Do not call this inside a transaction.
    Raise CheckFailed with the provider's words. Raise Wait, without storing a result, when the
    API limit is used up. Raise Conflict while the provider is disabled, and Invalid for a name that
    can have no record. The sweep removes a record that this process could not remove.
    """
    registry.refuse_disabled(credential.disabled)
    place = _place_of(name) if name else ""
    calls: list[watching.ApiCall] = []
    try:
        with clock.limit(settings.CALL_LIMIT), watching.by(calls.append):
            if place:
                _write_and_remove(credential, place)
            else:
                registry.open_credential(credential).check()
    except ProviderError as error:
        _note(credential, error.what)
        raise _failure(error) from None
    _note(credential, "")
    return calls


def _write_and_remove(credential: DnsCredential, place: str) -> None:
    record = records.note(credential, place, secrets.token_urlsafe(32))
    records.publish(record.pk)
    records.withdraw(record.pk, lambda _record: False, due=False)


def _place_of(name: str) -> str:
    plain = a_label(name.strip().removeprefix("*."))
    place = challenge_of(plain) if WRITABLE.fullmatch(plain) else ""
    if not WRITABLE.fullmatch(place):
        raise errors.Invalid(
            _(
                "%(name)s is not a name that can have a TXT record. Give one like "
                "www.example.com, in a zone that the credential may write.",
                name=_shown(name),
            ),
            field="name",
        )
    return place


def _failure(error: ProviderError) -> CheckFailed:
    failure = CheckFailed(error.what, dns=error.code)
    failure.status = 400 if error.permanent else 502
    return failure


def _note(credential: DnsCredential, what: str) -> None:
    credential.checked_at = clock.now()
    credential.last_error = what
    credential.save(update_fields=["checked_at", "last_error"])


def _members(data: object) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise errors.Invalid(_('The body is not a JSON object. Send one: {"provider": ...}.'))
    return data


def _provider_named(data: Mapping[str, Any]) -> str:
    name = data.get("provider")
    if name is None:
        raise errors.MissingField(
            _(
                "provider is missing. Give one of %(providers)s.",
                providers=", ".join(registry.PROVIDERS),
            ),
            field="provider",
        )
    if not isinstance(name, str):
        raise errors.Invalid(
            _("provider must be one of %(providers)s.", providers=", ".join(registry.PROVIDERS)),
            field="provider",
        )
    return name


def _given(provider: type[Provider], data: Mapping[str, Any]) -> Given:
    """Return the members that are not empty, each checked. Raise Invalid for an unknown member."""
    given = Given({}, {}, {})
    known = {field.name: field for field in (*provider.fields, *COMMON_FIELDS)}
    for name, value in data.items():
        if name == "provider":
            continue
        if name not in known:
            raise errors.Invalid(
                _(
                    "%(name)s has no field %(shown)s. Its fields are %(known)s.",
                    name=provider.name,
                    shown=_shown(name),
                    known=", ".join(known),
                ),
                field=_shown(name),
            )
        if not _is_empty(value):
            _place(given, known[name])[name] = known[name].clean(value)
    return given


def _is_empty(value: Any) -> bool:
    return value is None or value == ""


def _place(given: Given, field: Field) -> dict[str, Any]:
    if field in COMMON_FIELDS:
        return given.common
    return given.secret if field.secret else given.public


def _shown(name: Any) -> str:
    """Return the client's name of a member in a form that is safe in a sentence."""
    return "".join(each for each in str(name)[:64] if each.isprintable())


def _check_whole(provider: type[Provider], given: Given) -> None:
    for field in provider.fields:
        if field.required and not _place(given, field).get(field.name):
            raise errors.MissingField(
                _(
                    "%(name)s is missing. %(provider_name)s needs it.",
                    name=field.name,
                    provider_name=provider.name,
                ),
                field=field.name,
            )
    provider.check_together(given.public | given.secret)


def _check_destination(
    provider: type[Provider], old: Mapping[str, Any], whole: Given, given_secret: Mapping[str, str]
) -> None:
    moved = [
        each.name
        for each in provider.fields
        if each.gets_secrets and old.get(each.name) != whole.public[each.name]
    ]
    for name in whole.secret if moved else ():
        if name not in given_secret:
            raise errors.MissingField(
                _(
                    "%(name)s is missing. It is needed again with a new %(moved)s.",
                    name=name,
                    moved=moved[0],
                ),
                field=name,
            )


def _common_defaults(provider: type[Provider]) -> dict[str, Any]:
    return {field.name: field.default for field in COMMON_FIELDS} | {"name": str(provider.name)}


def _default_public(provider: type[Provider]) -> dict[str, Any]:
    return {
        each.name: each.default
        for each in provider.fields
        if not each.secret and each.default is not None
    }


def _merged(old: Mapping[str, Any], new: Mapping[str, Any], gone: set[str]) -> dict[str, Any]:
    return {name: value for name, value in {**old, **new}.items() if name not in gone}
