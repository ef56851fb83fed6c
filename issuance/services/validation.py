"""Check a certificate against its accounts and its key policy, before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from authorities import accounts, catalog
from authorities.models import AcmeAccount
from certctrl.errors import Invalid
from certctrl.sentences import either
from certctrl.sentences import sentence as _
from devices.models import Device
from issuance import identifiers
from issuance.challenges import registry
from issuance.models import Certificate
from keystore.models import Envelope

DEVICE_REQUIRED = Envelope.Policy.DEVICE_REQUIRED
# The columns that are checked, besides names, account and key.
COLUMNS = (
    *("key_policy", "server_decrypt_export", "reuse_key", "profile", "fallback_account_id"),
    *("verify_method", "verify_device_id"),
)


@dataclass(frozen=True)
class Wanted:
    """The certificate that a request asks for. `columns` has those of COLUMNS that are set."""

    names: Sequence[str]
    account: AcmeAccount
    key_type: str
    key_size: int
    columns: Mapping[str, Any]


def changed(certificate: Certificate, changes: Mapping[str, Any]) -> Wanted:
    """Return the certificate as it will be after these changes of its columns."""

    def as_it_will_be(column: str) -> Any:
        return changes.get(column, getattr(certificate, column))

    columns = {column: as_it_will_be(column) for column in COLUMNS}
    kind = (as_it_will_be("key_type"), as_it_will_be("key_size"))
    return Wanted(certificate.names, as_it_will_be("account"), *kind, columns)


def judge(wanted: Wanted) -> None:
    """Check the combination. Raise Invalid, which names the columns that do not go together.

    Raise NotFound for a fallback account that does not exist or has another owner.
    """
    _refuse_policy(wanted)
    _refuse_key(wanted.account, wanted, "key_size")
    _refuse_profile(wanted)
    _refuse_method(wanted)
    if wanted.columns.get("fallback_account_id"):
        _refuse_fallback(_fallback(wanted), wanted)


def _refuse_policy(wanted: Wanted) -> None:
    if wanted.columns.get("key_policy") != DEVICE_REQUIRED:
        return
    if wanted.columns.get("server_decrypt_export"):
        raise Invalid(
            _(
                "Under DEVICE_REQUIRED the server cannot open the key. Leave "
                "server_decrypt_export out, or choose HYBRID."
            ),
            field="server_decrypt_export",
        )
    if wanted.columns.get("reuse_key"):
        raise Invalid(
            _(
                "Under DEVICE_REQUIRED the server cannot open the key to keep it. Leave "
                "reuse_key out, or choose HYBRID."
            ),
            field="reuse_key",
        )


def _refuse_key(account: AcmeAccount, wanted: Wanted, field: str) -> None:
    if not catalog.signs(account.ca_provider, wanted.key_type, wanted.key_size):
        raise Invalid(
            _(
                "%(name)s signs %(key_sizes)s, not %(key_type)s %(key_size)s. Choose another "
                "key_type or key_size.",
                name=account.name,
                key_sizes=catalog.key_sizes(account.ca_provider),
                key_type=wanted.key_type,
                key_size=wanted.key_size,
            ),
            field=field,
        )


def _refuse_profile(wanted: Wanted) -> None:
    """Raise Invalid for an unknown profile, and for more names than it allows.

    Any profile is accepted for a CA whose profiles the catalog does not know. It is sent when the
    CA's directory lists it.
    """
    profile = wanted.columns.get("profile")
    info = catalog.info(wanted.account.ca_provider)
    if profile and info.profiles and profile not in info.profiles:
        known = ", ".join(info.profiles)
        raise Invalid(
            _(
                "%(label)s has no profile %(profile)s. Choose one of %(known)s.",
                label=info.label,
                profile=profile,
                known=known,
            ),
            field="profile",
        )
    _refuse_count(wanted.account, wanted, "profile")


def _refuse_count(account: AcmeAccount, wanted: Wanted, field: str) -> None:
    profile = wanted.columns.get("profile")
    info = catalog.info(account.ca_provider)
    most = info.profiles.get(profile or "", info.max_names)
    count = len(wanted.names)
    if count > most:
        of = info.label
        if profile in info.profiles:
            of = _("the profile %(profile)s of %(label)s", profile=profile, label=info.label)
        raise Invalid(
            _(
                "A certificate by %(of)s has at most %(most)s names, and this one has "
                "%(count)s. Split it into several.",
                of=of,
                most=most,
                count=count,
            ),
            field=field,
        )


def _refuse_method(wanted: Wanted) -> None:
    """Raise Invalid for names that the validation method cannot prove, and without a device."""
    method = wanted.columns.get("verify_method")
    if registry.is_in_zone(method):
        return
    if wildcard := next((name for name in wanted.names if name.startswith("*.")), None):
        raise Invalid(
            _(
                "%(wildcard)s is a wildcard, which %(method)s cannot prove. Leave "
                "verify_method out.",
                wildcard=wildcard,
                method=method,
            ),
            field="verify_method",
        )
    if wanted.account.is_private:
        return
    _refuse_addresses(wanted.account, wanted)
    device = wanted.columns.get("verify_device_id")
    if not device:
        raise Invalid(
            _(
                "%(method)s needs a device. Give the id of one whose agent is reached at the "
                "names.",
                method=method,
            ),
            field="verify_device_id",
        )
    of_owner = Device.objects.filter(owner=wanted.account.owner_id, status=Device.Status.ACTIVE)
    if not of_owner.filter(pk=device).exists():
        raise Invalid(
            _("You have no active device %(device)s. Give the id of another one.", device=device),
            field="verify_device_id",
        )


def _refuse_addresses(account: AcmeAccount, wanted: Wanted) -> None:
    address = next((name for name in wanted.names if identifiers.is_address(name)), None)
    info = catalog.info(account.ca_provider)
    profiles = info.address_profiles
    if not address or profiles is None or wanted.columns.get("profile") in profiles:
        return
    what = _(
        "%(label)s does not issue for IP addresses such as %(address)s, or choose another account.",
        label=info.label,
        address=address,
    )
    if profiles:
        what = _(
            "%(label)s does not issue for IP addresses such as %(address)s without the profile "
            "%(profiles)s. Set profile, or choose another account.",
            label=info.label,
            address=address,
            profiles=either(profiles),
        )
    raise Invalid(
        what,
        field="profile" if profiles else "domain",
    )


def _fallback(wanted: Wanted) -> AcmeAccount:
    pk = wanted.columns["fallback_account_id"]
    owner = wanted.account.owner_id
    account = AcmeAccount.objects.filter(owner=owner, pk=pk, retired_at=None).first()
    if not account:
        raise accounts.no_account(pk, "fallback_account_id")
    return account


def _refuse_fallback(fallback: AcmeAccount, wanted: Wanted) -> None:
    field = "fallback_account_id"
    info = catalog.info(fallback.ca_provider)
    if fallback.pk == wanted.account.pk:
        raise Invalid(
            _(
                "%(name)s is already the account of this certificate. Choose another "
                "fallback account.",
                name=fallback.name,
            ),
            field=field,
        )
    if fallback.is_private or wanted.account.is_private:
        raise Invalid(
            _("A private CA signs at once. It cannot have a fallback account, or be one."),
            field=field,
        )
    _refuse_key(fallback, wanted, field)
    _refuse_count(fallback, wanted, field)
    _refuse_addresses(fallback, wanted)
    if not info.wildcards and any(name.startswith("*.") for name in wanted.names):
        raise Invalid(
            _("%(label)s issues no wildcards. Choose another fallback account.", label=info.label),
            field=field,
        )
