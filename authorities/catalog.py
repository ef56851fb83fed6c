"""The CAs and the known facts about each, as data.

`settings.ACME_CAS` overrides an entry or adds one. Example:

    {"letsencrypt": {"directory_url": "https://localhost:14000/dir"}}
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db.models import TextChoices

from authorities import pki
from authorities.models import AcmeAccount
from certctrl import outgoing
from certctrl.errors import Invalid
from certctrl.lanes import Lane
from certctrl.sentences import sentence as _


class LimitKind(TextChoices):
    """The things that a CA's rate limits count."""

    ACCOUNT = "account"  # new orders of an account
    DOMAIN = "domain"  # certificates of a registered domain
    SET = "set"  # certificates of exactly these names
    FAILURES = "failures"  # failed validations of a name by an account
    # BUSY counts nothing. It is closed while the CA's Retry-After applies to an account as a whole.
    BUSY = "busy"


@dataclass(frozen=True)
class Limit:
    """A rate limit: `capacity` tokens. One token comes back every `each` seconds."""

    capacity: float
    each: float

    @property
    def period(self) -> timedelta:
        """Return the time in which all tokens come back. Example: "300 new orders in 3 hours"."""
        return timedelta(seconds=self.capacity * self.each)


SELF_CA = "SELF_CA"
CUSTOM = "custom"
LIMITS_LIKE = (
    '{"account": [300, 36], "domain": [50, 12096]}: tokens, and seconds for one to come back'
)


@dataclass(frozen=True)
class CAInfo:
    """The facts about a CA that are known without asking the CA."""

    name: str
    label: str
    directory_url: str = ""  # empty: the account has it, or there is none
    key_sizes: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: pki.KEY_SIZES)
    eab: str = "none"  # none, optional, required
    eab_source: str = ""  # which service creates an EAB when nobody gives one
    max_names: int = 100
    wildcards: bool = True
    # The profiles with IP addresses (RFC 8738); None: not known.
    address_profiles: tuple[str, ...] | None = ()
    # By LimitKind: tokens, and seconds until one comes back.
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    # The names in CAA records, used when the directory has none.
    caa_identities: tuple[str, ...] = ()
    # The profiles, each with its maximum of names; empty: not known.
    profiles: Mapping[str, int] = field(default_factory=dict)
    # Hosts of the CA's URLs, besides those in the domain of its directory.
    hosts: tuple[str, ...] = ()
    staging: str = ""  # name of the CA that serves as staging for this one


HOUR = 3600
WEEK = 7 * 86400
# https://letsencrypt.org/docs/rate-limits/ and https://letsencrypt.org/docs/staging-environment/
LETSENCRYPT_LIMITS = {
    "account": (300, 3 * HOUR / 300),
    "domain": (50, WEEK / 50),
    "set": (5, WEEK / 5),
    "failures": (5, HOUR / 5),
}
STAGING_LIMITS = {
    "account": (1500, 3 * HOUR / 1500),
    "set": (30_000, WEEK / 30_000),
    "failures": (200, HOUR / 200),
}
# https://letsencrypt.org/docs/profiles/
LETSENCRYPT_PROFILES = {"classic": 100, "tlsserver": 25, "shortlived": 25}

CAS = (
    CAInfo(
        "letsencrypt",
        "Let's Encrypt",
        "https://acme-v02.api.letsencrypt.org/directory",
        caa_identities=("letsencrypt.org",),
        limits=LETSENCRYPT_LIMITS,
        profiles=LETSENCRYPT_PROFILES,
        address_profiles=("shortlived",),
        staging="letsencrypt_staging",
    ),
    CAInfo(
        "letsencrypt_staging",
        _("Let's Encrypt, staging"),
        "https://acme-staging-v02.api.letsencrypt.org/directory",
        caa_identities=("letsencrypt.org",),
        limits=STAGING_LIMITS,
        profiles=LETSENCRYPT_PROFILES,
        address_profiles=("shortlived",),
    ),
    CAInfo(
        "zerossl",
        "ZeroSSL",
        "https://acme.zerossl.com/v2/DV90",
        eab="required",
        eab_source="zerossl",
        caa_identities=("sectigo.com",),
    ),
    CAInfo(CUSTOM, _("Another ACME CA, by its directory"), eab="optional", address_profiles=None),
    CAInfo(SELF_CA, _("A private CA of your own")),
)


def known() -> dict[str, CAInfo]:
    """Return every CA by its name, including the overrides and additions of `settings.ACME_CAS`.

    Raise ImproperlyConfigured when that setting is wrong.
    """
    found = {ca.name: ca for ca in CAS}
    for name, overrides in settings.ACME_CAS.items():
        found[name] = _overridden(found.get(name) or CAInfo(name, name), overrides)
    for name in settings.ACME_CAS:
        if found[name].staging and found[name].staging not in found:
            raise ImproperlyConfigured(
                f"The staging of {name} in ACME_CAS names an unknown CA. Choose one of "
                f"{', '.join(found)}."
            )
    return found


def _overridden(ca: CAInfo, overrides: Any) -> CAInfo:
    allowed = {field.name for field in fields(CAInfo)} - {"name"}
    if not isinstance(overrides, dict) or set(overrides) - allowed:
        raise ImproperlyConfigured(
            f"The CA {ca.name} in ACME_CAS may only have {', '.join(sorted(allowed))}."
        )
    for name in ("caa_identities", "hosts"):
        if not _is_list_of_names(overrides.get(name, [])):
            raise ImproperlyConfigured(
                f'{name} of {ca.name} in ACME_CAS must be a list, for example ["ca.example.com"].'
            )
    if "key_sizes" in overrides:
        sizes = {key_type: tuple(sizes) for key_type, sizes in overrides["key_sizes"].items()}
        overrides = {**overrides, "key_sizes": sizes}
    if "limits" in overrides:
        overrides = {**overrides, "limits": _limits(ca, overrides["limits"])}
    if "caa_identities" in overrides:
        overrides = {**overrides, "caa_identities": tuple(overrides["caa_identities"])}
    if "hosts" in overrides:
        overrides = {
            **overrides,
            "hosts": tuple(host.strip().rstrip(".").lower() for host in overrides["hosts"]),
        }
    return replace(ca, **overrides)


def _is_list_of_names(given: Any) -> bool:
    return isinstance(given, list | tuple) and all(isinstance(each, str) for each in given)


def _limits(ca: CAInfo, given: Any) -> dict[str, tuple[float, float]]:
    """Return the CA's limits, with the given ones in place of its own. Null removes a limit."""
    if not isinstance(given, dict) or not all(
        _is_limit(kind, limit) for kind, limit in given.items()
    ):
        raise ImproperlyConfigured(
            f"The limits of {ca.name} in ACME_CAS must be like {LIMITS_LIKE}. Use null for none."
        )
    return {kind: limit for kind, limit in {**ca.limits, **given}.items() if limit is not None}


def _is_limit(kind: str, limit: Any) -> bool:
    is_kind = kind in set(LimitKind.values) - {LimitKind.BUSY}
    is_pair = (
        isinstance(limit, list | tuple)
        and len(limit) == 2
        and all(type(each) in (int, float) for each in limit)
    )
    return is_kind and (limit is None or (is_pair and all(each > 0 for each in limit)))


def info(ca_provider: str) -> CAInfo:
    """Return the CA of that name, in any case.

    Raise Invalid for any other name. Its message lists the names.
    """
    cas = known()
    for name, ca in cas.items():
        if name.lower() == str(ca_provider).strip().lower():
            return ca
    what = _(
        "There is no CA of that name. ca_provider must be one of %(known)s.", known=", ".join(cas)
    )
    raise Invalid(what, field="ca_provider")


def key_sizes(ca_provider: str) -> str:
    """Return the keys that the CA signs, as text for a sentence.

    Example: `ecdsa 256/384, rsa 2048/3072/4096`.
    """
    return ", ".join(
        f"{kind} {'/'.join(map(str, sizes))}" for kind, sizes in info(ca_provider).key_sizes.items()
    )


def signs(ca_provider: str, key_type: str, key_size: int) -> bool:
    """Return whether the CA signs keys of this type and size (bits)."""
    return key_size in info(ca_provider).key_sizes.get(key_type, ())


def limits_at(directory_url: str) -> Mapping[str, Limit]:
    """Return the known limits of the CA with this directory, by LimitKind.

    A kind that is missing has no limit. A directory that is in no entry counts as `custom`.
    """
    cas = known()
    same = outgoing.canonical_url(directory_url)
    entry = next(
        (ca for ca in cas.values() if outgoing.canonical_url(ca.directory_url) == same), cas[CUSTOM]
    )
    return {kind: Limit(capacity, each) for kind, (capacity, each) in entry.limits.items()}


def longest_period() -> timedelta:
    """Return the longest time in which any known limit gets all its tokens back."""
    limits = [Limit(*limit) for ca in known().values() for limit in ca.limits.values()]
    return max((limit.period for limit in limits), default=timedelta(0))


def fetches_eab(account: AcmeAccount) -> bool:
    """Return whether the CA can create the external account binding for the account."""
    return bool(info(account.ca_provider).eab_source)


def lane_of(ca_provider: str, directory_url: str) -> Lane | None:
    """Return the lane of calls to the CA of an account, given the columns of its row.

    Return None for a private CA, which is not called over the network.
    """
    if ca_provider == SELF_CA:
        return None
    ca = known().get(ca_provider)
    url = outgoing.canonical_url(directory_url or (ca.directory_url if ca else ""))
    host = urlsplit(url).netloc
    return Lane(
        f"ca:{host}", ca.label if ca and not directory_url else _("the CA %(host)s", host=host)
    )


def lane_of_account(account: AcmeAccount) -> Lane | None:
    return lane_of(account.ca_provider, account.directory_url)


def directory_of(account: AcmeAccount) -> str:
    """Return the canonical URL of the account's directory. Rate limits are counted by this URL."""
    return outgoing.canonical_url(account.directory_url or info(account.ca_provider).directory_url)
