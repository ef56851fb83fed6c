"""Which buckets of a CA's limits an order counts in."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from issuance import ca, names
from issuance.models import AcmeAccount, Issuance, LimitBucket

Kind = LimitBucket.Kind


@dataclass(frozen=True)
class Want:
    """A bucket that an order counts in, or that must not be empty (`cost` 0)."""

    kind: str
    subject: str
    label: str
    cost: int = 1


def of_order(issuance: Issuance) -> list[Want]:
    """The buckets of an order without `replaces`. A renewal of exactly the same names at the same CA counts in that of
    these names only; what it is not counted in must only not be closed."""
    return of_names(issuance.account, issuance.certificate.names, renews=renews_here(issuance))


def of_names(account: AcmeAccount, domains: Sequence[str], *, renews: bool = False) -> list[Want]:
    whole = hashlib.sha256(" ".join(sorted(domains)).encode()).hexdigest()
    wanted = [
        Want(Kind.SET, whole, _listed(domains)),
        Want(Kind.ACCOUNT, str(account.pk), account.name, cost=0 if renews else 1),
        busy(account),
    ]
    if not renews:
        registered = dict.fromkeys(names.registered_domain(name) for name in domains)
        wanted += [Want(Kind.DOMAIN, domain, domain) for domain in registered]
    bases = dict.fromkeys(name.removeprefix(names.WILDCARD) for name in domains)
    return wanted + [failures(account, base) for base in bases]


def busy(account: AcmeAccount) -> Want:
    """Closed while the CA asks everybody to come back later, whatever they order."""
    return Want(Kind.BUSY, str(account.pk), account.name, cost=0)


def failures(account: AcmeAccount, name: str) -> Want:
    return Want(Kind.FAILURES, f"{account.pk} {name}", name, cost=0)


def renews_here(issuance: Issuance) -> bool:
    """Whether this CA issued the version that is being renewed; a certificate's names do not change."""
    current = issuance.certificate.current
    return current is not None and ca.directory_of(current.account) == ca.directory_of(issuance.account)


def _listed(domains: Sequence[str]) -> str:
    return domains[0] if len(domains) == 1 else f"{domains[0]} and {len(domains) - 1} more"


def find(directory: str, wanted: Sequence[Want]) -> dict[Want, int]:
    by_subject = {(want.kind, want.subject): want for want in wanted}
    rows = LimitBucket.objects.filter(ca=directory, subject__in=[want.subject for want in wanted])
    return {
        by_subject[kind, subject]: pk
        for pk, kind, subject in rows.values_list("pk", "kind", "subject")
        if (kind, subject) in by_subject
    }
