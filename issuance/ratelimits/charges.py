"""Find the buckets of a CA's limits that an order is charged in."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from authorities import catalog
from authorities.catalog import LimitKind
from authorities.models import AcmeAccount
from certctrl import clock
from dnsclient import names
from issuance import identifiers
from issuance.models import Issuance, LimitBucket

Kind = LimitKind


@dataclass(frozen=True)
class Charge:
    """A bucket that an order is charged in.

    With `cost` 0 the order takes no token. `Ledger.may_use` says when it may use the bucket.
    """

    kind: str
    subject: str
    label: str
    cost: int = 1

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.subject


@dataclass(frozen=True)
class Charges:
    """All charges of an order.

    `costs` has the buckets that have a row. The keys are the ids of the rows, the values the costs
    in tokens. `listed` also has the buckets without a row, which a refusal may close.
    """

    listed: Sequence[Charge]
    costs: Mapping[int, int]


def charges_of(issuance: Issuance) -> Charges:
    """Return the charges of an order."""
    return charges_of_all([issuance])[0]


def charges_of_all(issuances: Sequence[Issuance]) -> list[Charges]:
    """Return the charges of each order, in the same order."""
    wanted = [of_order(each) for each in issuances]
    directories = [catalog.directory_of(each.account) for each in issuances]
    of_each = list(zip(directories, wanted, strict=True))
    rows = {}
    for directory in set(directories):
        rows[directory] = _rows(
            directory, [want for at, wants in of_each if at == directory for want in wants]
        )
    # A kind without a known limit has a row only after the CA has refused. The row costs no token,
    # but it may be closed.
    known = {directory: catalog.limits_at(directory) for directory in rows}
    return [
        Charges(
            wants,
            {
                rows[at][want.key]: want.cost if want.kind in known[at] else 0
                for want in wants
                if want.key in rows[at]
            },
        )
        for at, wants in of_each
    ]


def _rows(directory: str, wanted: Sequence[Charge]) -> dict[tuple[str, str], int]:
    """Return the ids of the buckets. Missing rows of known limits are created as full buckets."""
    known = catalog.limits_at(directory)
    found = find(directory, wanted)
    missing = {
        want.key: want
        for want in wanted
        if want.cost and want.kind in known and want.key not in found
    }
    if missing:
        now = clock.now()
        LimitBucket.objects.bulk_create(
            [
                LimitBucket(
                    ca=directory,
                    kind=want.kind,
                    subject=want.subject,
                    label=want.label[:320],
                    level=known[want.kind].capacity,
                    at=now,
                )
                for want in missing.values()
            ],
            ignore_conflicts=True,
        )
        found = find(directory, wanted)
    return found


def of_order(issuance: Issuance) -> list[Charge]:
    """Return the charges of an order without `replaces`.

    A renewal of exactly the same names at the same CA is charged only in the bucket of these names.
    Its other buckets are not charged, but they must be open.
    """
    return of_names(issuance.account, issuance.certificate.names, renews=renews_here(issuance))


def of_names(account: AcmeAccount, domains: Sequence[str], *, renews: bool = False) -> list[Charge]:
    whole = hashlib.sha256(" ".join(sorted(domains)).encode()).hexdigest()
    wanted = [
        Charge(Kind.SET, whole, _listed(domains)),
        Charge(Kind.ACCOUNT, str(account.pk), account.name, cost=0 if renews else 1),
        busy_of(account),
    ]
    if not renews:
        registered = dict.fromkeys(names.registered_domain(name) for name in domains)
        wanted += [Charge(Kind.DOMAIN, domain, domain) for domain in registered]
    bases = dict.fromkeys(name.removeprefix(identifiers.WILDCARD) for name in domains)
    return wanted + [failures_of(account, base) for base in bases]


def busy_of(account: AcmeAccount) -> Charge:
    """Return the charge for the bucket that closes while the CA is busy.

    It is closed after several refusals without a named limit. Then it holds back every order of the
    account.
    """
    return Charge(Kind.BUSY, str(account.pk), account.name, cost=0)


def failures_of(account: AcmeAccount, name: str) -> Charge:
    return Charge(Kind.FAILURES, f"{account.pk} {name}", name, cost=0)


def renews_here(issuance: Issuance) -> bool:
    """Return whether this CA issued the version that the attempt renews.

    The names are the same, because the names of a certificate never change.
    """
    current = issuance.certificate.current
    return current is not None and catalog.directory_of(current.account) == catalog.directory_of(
        issuance.account
    )


def _listed(domains: Sequence[str]) -> str:
    return domains[0] if len(domains) == 1 else f"{domains[0]} and {len(domains) - 1} more"


def find(directory: str, wanted: Sequence[Charge]) -> dict[tuple[str, str], int]:
    """Return the ids of the rows that exist, by the keys of the charges."""
    keys = {want.key for want in wanted}
    rows = LimitBucket.objects.filter(ca=directory, subject__in={subject for _, subject in keys})
    found = {(kind, subject): pk for pk, kind, subject in rows.values_list("pk", "kind", "subject")}
    return {key: pk for key, pk in found.items() if key in keys}
