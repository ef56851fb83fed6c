"""Look at the zones of a request, before there is a certificate."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from accounts.models import User
from authorities import privateca
from authorities.models import AcmeAccount
from certctrl import clock
from dnsclient import cnames
from dnsclient.names import registered_domain
from issuance import preflight
from issuance.challenges import base, registry
from issuance.identifiers import WILDCARD, is_address
from issuance.models import Certificate, NamePart
from issuance.renewal import schedule
from issuance.services.certificates import CertificateSpec, unsaved

MOST_DOMAINS = 10  # registered domains whose history is read
MOST_READ = 20  # newest certificates of each of them, or of an account


@dataclass(frozen=True)
class ZoneProof:
    """The names of one zone, and the records that prove them.

    `zone` is the zone that resolvers see. Before a look, it is the registered domain. `is_seen`
    says whether the DNS provider shows the zone to the credential. It is None if the provider was
    not asked, or did not answer. `proved_by` is the id of the credential that proved names of the
    registered domain last.
    """

    zone: str
    names: Sequence[str]
    records: Sequence[str]
    is_seen: bool | None = None
    proved_by: int | None = None


class Looked(NamedTuple):
    """The result of a look. `zones` is empty if no TXT record proves the names."""

    findings: list[preflight.Finding]
    zones: list[ZoneProof]


def look(owner: User, spec: CertificateSpec) -> Looked:
    """Run a preflight for a certificate that does not exist yet."""
    certificate = unsaved(owner, spec)
    findings, known = preflight.look(certificate)
    if spec.account.is_private or not registry.for_certificate(certificate).in_zone:
        return Looked(findings, [])
    return Looked(findings, zones_of(owner, spec.names, known, findings))


def zones_of(
    owner: User,
    names: Collection[str],
    known: base.Known | None = None,
    findings: Sequence[preflight.Finding] = (),
) -> list[ZoneProof]:
    """Return the zones of these names, in their order. `known` and `findings` are of a look."""
    known = known or base.Known()
    grouped: dict[str, list[tuple[str, str]]] = {}
    for name in (each for each in names if not is_address(each)):
        plain = name.removeprefix(WILDCARD)
        path = known.paths.get(plain)
        record = path.final if path else cnames.challenge_of(plain)
        zone = known.seen.get(record) or domain_of(name)
        grouped.setdefault(zone, []).append((name, record))
    refused = {each.record for each in findings if each.blocks}
    proved_by = last_credentials(owner, map(domain_of, names))
    zones = []
    for zone, pairs in grouped.items():
        records = list(dict.fromkeys(record for _name, record in pairs))
        is_seen = True if known.zones.keys() & set(records) else None
        if not is_seen and any(f"{record} TXT" in refused for record in records):
            is_seen = False
        its_names = [name for name, _record in pairs]
        by = proved_by.get(domain_of(its_names[0]))
        zones.append(ZoneProof(zone, its_names, records, is_seen, by))
    return zones


def domain_of(name: str) -> str:
    return registered_domain(name.removeprefix(WILDCARD))


def last_credentials(owner: User, domains: Iterable[str]) -> dict[str, int]:
    """Return the ids of the credentials that proved names of these registered domains last."""
    found = {}
    for domain in list(dict.fromkeys(domains))[:MOST_DOMAINS]:
        parts = NamePart.objects.filter(owner=owner, part=domain.encode())
        newest = parts.order_by("-certificate").values_list("certificate", flat=True)[:MOST_READ]
        proved = Certificate.objects.filter(
            pk__in=list(newest), current__isnull=False, credential__retired_at=None
        )
        last = proved.exclude(credential=None).order_by("-pk")
        if pk := last.values_list("credential", flat=True).first():
            found[domain] = pk
    return found


class Expected(NamedTuple):
    """When a certificate that is issued now would end and be renewed."""

    not_after: datetime
    renew_at: datetime


def expected(
    account: AcmeAccount, profile: str = "", days_before: int | None = None
) -> Expected | None:
    """Return the end and the renewal of a certificate that the account would get now.

    The last certificate of the account with this profile says how long one lives. Return None if
    there is none.
    """
    life = _life_at(account, profile)
    if not life:
        return None
    now = clock.now()
    return Expected(now + life, schedule.renew_at(now, now + life, days_before, 0))


def _life_at(account: AcmeAccount, profile: str) -> timedelta | None:
    if account.is_private:
        seconds = account.defaults.get("validity_seconds")
        return timedelta(seconds=seconds) if seconds else privateca.DEFAULT_VALIDITY
    rows = Certificate.objects.filter(account=account, owner=account.owner_id, retired_at=None)
    newest = rows.order_by("-pk").select_related("current").defer("current__chain_pem")
    for each in newest[:MOST_READ]:
        if each.current and each.profile == profile:
            return each.current.not_after - each.current.not_before
    return None
