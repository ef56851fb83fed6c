"""Find the buckets of a CA's limits that an order is charged in."""

import hashlib
import ipaddress
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from authorities import catalog
from authorities.catalog import Limit
from authorities.catalog import LimitKind as Kind
from authorities.models import AcmeAccount
from certctrl import clock
from certctrl.sentences import sentence as _
from certctrl.statements import Parameter, Select
from dnsclient import names
from issuance import identifiers
from issuance.models import Issuance, LimitBucket

Key = tuple[str, str, str]  # CA, kind, subject
STRIKES = Limit(3, 100.0)  # refusals without a named limit, until the account pauses


@dataclass(frozen=True)
class Charge:
    """A bucket that an order is charged in.

    With `cost` 0 the order takes no token. `Ledger.may_use` says when it may use the bucket.
    """

    ca: str
    kind: str
    subject: str
    label: str
    cost: int = 1

    @property
    def key(self) -> Key:
        return self.ca, self.kind, self.subject


@dataclass(frozen=True)
class Charges:
    """All charges of an order.

    `costs` has the buckets that have a row. The keys are the ids of the rows, the values the costs
    in tokens. `listed` also has the buckets without a row, which a refusal may close.
    """

    listed: Sequence[Charge]
    costs: Mapping[int, int]


def charges_of(issuance: Issuance, *, is_exempt: bool = False) -> Charges:
    """Return the charges of an order. A CA counts an exempt order in no limit."""
    return charges_at([of_account(issuance.account)[1:] if is_exempt else of_order(issuance)])[0]


def charges_at(orders: Sequence[Sequence[Charge]], *, makes: bool = True) -> list[Charges]:
    """Return the charges of each order. Missing rows of known limits are made, if `makes` is set.

    A kind without a known limit has a row only after the CA has refused. The row costs no token,
    but it may be closed.
    """
    wanted = [want for wants in orders for want in wants]
    known = {ca: catalog.limits_at(ca) for ca in {want.ca for want in wanted}}
    counted = {want for want in wanted if want.cost and want.kind in known[want.ca]}
    found = find(wanted)
    missing = {want.key: want for want in counted if want.key not in found}
    if missing and makes:
        found |= make(missing.values())
    return [
        Charges(
            wants,
            {found[want.key]: int(want in counted) for want in wants if want.key in found},
        )
        for wants in orders
    ]


def find(wanted: Collection[Charge]) -> dict[Key, int]:
    """Return the ids of the buckets that have a row."""
    found: dict[Key, int] = {}
    for ca in {want.ca for want in wanted}:
        subjects = {want.subject for want in wanted if want.ca == ca}
        values = {str(number): subject for number, subject in enumerate(subjects)}
        rows = _compiled(len(values))(ca=ca, **values)
        found |= {(ca, kind, subject): pk for pk, kind, subject in rows}
    return {want.key: found[want.key] for want in wanted if want.key in found}


@lru_cache(maxsize=32)
def _compiled(count: int) -> Select[Any]:
    """Return the statement that reads the buckets of `count` subjects at a CA."""
    subjects = [Parameter(str(number)) for number in range(count)]
    rows = LimitBucket.objects.filter(ca=Parameter("ca"), subject__in=subjects)
    return Select(rows.values_list("pk", "kind", "subject"))


def make(wanted: Collection[Charge]) -> dict[Key, int]:
    """Create the rows that are missing, as full buckets. Return the ids of all."""
    now = clock.now()
    LimitBucket.objects.bulk_create(
        (
            LimitBucket(
                ca=want.ca,
                kind=want.kind,
                subject=want.subject,
                label=want.label[:320],
                level=catalog.limits_at(want.ca).get(want.kind, STRIKES).capacity,
                at=now,
            )
            for want in wanted
        ),
        ignore_conflicts=True,  # another worker may make the same at the same time
    )
    return find(wanted)


def of_order(issuance: Issuance) -> list[Charge]:
    """Return the charges of an order without `replaces`.

    A renewal of exactly the same names at the same CA is charged only in the bucket of these names.
    Its other buckets are not charged, but they must be open. The names of a certificate never
    change, so the CA must only be the one that issued the current version.
    """
    account, current = issuance.account, issuance.certificate.current
    issuer = catalog.directory_of(current.account) if current else None
    renews = issuer == catalog.directory_of(account)
    return of_names(account, issuance.certificate.names, renews=renews)


def of_names(account: AcmeAccount, domains: Sequence[str], *, renews: bool = False) -> list[Charge]:
    ca = catalog.directory_of(account)
    whole = hashlib.sha256(" ".join(sorted(domains)).encode()).hexdigest()
    wanted = [
        Charge(ca, Kind.SET, whole, _listed(domains)),
        *of_account(account, cost=0 if renews else 1),
    ]
    if not renews:
        registered = dict.fromkeys(map(_registered, domains))
        wanted += [Charge(ca, Kind.DOMAIN, domain, domain) for domain in registered]
    bases = dict.fromkeys(name.removeprefix(identifiers.WILDCARD) for name in domains)
    return wanted + [failures_of(account, base) for base in bases]


def _registered(name: str) -> str:
    """Return the registered domain by which CAs count a name.

    An IPv4 address counts as itself, and an IPv6 address as its /64, as in Boulder, the server of
    Let's Encrypt (`coveringIdentifier` in its ratelimits/utilities.go).
    """
    if not identifiers.is_address(name):
        return names.registered_domain(name)
    return str(ipaddress.ip_network((name, 64), strict=False)) if ":" in name else name


def of_account(account: AcmeAccount, cost: int = 1) -> tuple[Charge, Charge]:
    """Return the charges for the account's orders, and for the bucket that is closed for a pause.

    That bucket is closed after several refusals without a named limit. Then it delays every order
    of the account.
    """
    ca, subject = catalog.directory_of(account), str(account.pk)
    return (
        Charge(ca, Kind.ACCOUNT, subject, account.name, cost),
        Charge(ca, Kind.BUSY, subject, account.name, cost=0),
    )


def failures_of(account: AcmeAccount, name: str) -> Charge:
    ca = catalog.directory_of(account)
    return Charge(ca, Kind.FAILURES, f"{account.pk} {name}", name, cost=0)


def _listed(domains: Sequence[str]) -> str:
    return (
        domains[0]
        if len(domains) == 1
        else _("%(domains)s and %(count)s more", domains=domains[0], count=len(domains) - 1)
    )
