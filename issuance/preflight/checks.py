"""Find reasons for a refusal by the CA, before an order is sent.

A lookup that fails does not block the order. Only certain facts from DNS, the provider or the CA's
own data block it.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from authorities import catalog, clients
from authorities.base import CA
from authorities.errors import Refused
from authorities.models import AcmeAccount
from certctrl import clock, lanes
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble, Wait
from dnsclient import survey
from dnsclient.names import registered_domain
from dnsclient.resolver import RESOLVERS, Cache
from dnsclient.survey import Survey, Zone
from dnsproviders import propagation, registry
from dnsproviders.models import DnsCredential, TxtRecord
from issuance import notify
from issuance.challenges import base, delegation
from issuance.challenges import registry as challenges
from issuance.identifiers import bases, is_address, is_listed_suffix
from issuance.models import Certificate, Issuance, IssuanceEvent
from issuance.preflight import report, rules
from issuance.preflight.report import Finding

STEP = "preflight"  # the step that its event names
EVERY = timedelta(hours=1)
ALONE = 18.0  # seconds, when a person waits for it
# Fractions of the time that is left then.
FOR_DIRECTORY = 1 / 3
FOR_ZONES = 2 / 3
MOST_ZONES = 10  # zones that the provider is asked about
# Seconds. For so long after a provider showed a zone, attempts for other names in the zone do not
# ask again. Many names are often ordered together.
SHOWN_KEPT = 60.0
FOR_A_PERSON = ("credential_refused",)  # does not pass without a person

_shown: Cache[str] = Cache(SHOWN_KEPT)  # the provider's zones, by credential and the zone's name


def forget() -> None:
    """Empty this process's cache."""
    _shown.clear()


def before_order(issuance: Issuance, client: CA) -> tuple[base.Known, dict[str, Any]]:
    """Run the preflight of an attempt, at most once an hour.

    Return what it saw, and the columns of the attempt that the caller writes. Raise Refused if the
    CA would refuse the order. Findings that only warn become an event.
    """
    last = issuance.preflighted_at
    if issuance.account.is_private or (last and clock.now() - last < EVERY):
        return base.Known(), {}
    if not issuance.credential and delegation.is_delegated(issuance.certificate):
        raise Refused(
            "preflight_no_credential", delegation.lacking(issuance.certificate), permanent=True
        )
    issuance.breathe()
    with clock.limit(issuance.turn_left() / 2):
        written = _written_before(issuance)
        found, known = check(
            *(issuance.certificate, issuance.account, issuance.credential, client),
            but=written,
            shown=_shown,
        )
    blocking = [each for each in found if each.blocks]
    deaf = [propagation.server_of(label) for each in found for label in each.servers]
    seen = {"preflighted_at": clock.now(), "deaf": deaf}
    if not found:
        return known, seen
    done = IssuanceEvent.Outcome.DONE
    with issuance.fence(**seen):
        if not blocking:
            IssuanceEvent.objects.create(
                issuance=issuance,
                at=clock.now(),
                step=STEP,
                outcome=done,
                what=report.text_of(found),
            )
    if blocking:
        for each in blocking:
            if each.said and issuance.credential:
                notify.credential_refused(issuance.credential, each.said)
        first = blocking[0].code
        raise Refused(
            f"preflight_{first}", report.text_of(blocking), permanent=first in FOR_A_PERSON
        )
    return known, {}


def run(certificate: Certificate) -> list[Finding]:
    """Run the preflight alone, within 20 seconds and without an order."""
    return look(certificate)[0]


def look(certificate: Certificate) -> tuple[list[Finding], base.Known]:
    """Return the findings of `run`, and what was seen."""
    account = certificate.account
    credential = delegation.credential_for(certificate)
    with clock.limit(ALONE):
        found, known = check(certificate, account, credential, clients.client_for(account))
    in_zone = challenges.for_certificate(certificate).in_zone
    if not credential and in_zone and not account.is_private:
        found.insert(
            0, Finding("no_credential", certificate.domain, "", delegation.lacking(certificate))
        )
    return found, known


def check(
    certificate: Certificate,
    account: AcmeAccount,
    credential: DnsCredential | None,
    client: CA,
    *,
    but: Collection[str] = (),
    shown: Cache[str] | None = None,
) -> tuple[list[Finding], base.Known]:
    """Return the findings for the certificate at this account, blocking ones first.

    Return also what was seen. This costs a few batches of DNS questions, and one call to the
    provider for each zone. TXT names in `but` cost no call, nor do zones in `shown`. A private CA
    has no findings.
    """
    if account.is_private:
        return [], base.Known()
    names = [each for each in certificate.names if not is_address(each)]
    if not names:
        return list(_of_count(certificate, account)), base.Known()
    target = delegation.only_target(certificate, credential)
    identities = _identities(account, client)
    method = challenges.for_certificate(certificate)
    with lanes.enter(RESOLVERS, account.owner_id):
        seen = survey.survey(bases(names), clock.time_left() * FOR_ZONES)
    answer = lanes.Standing.TROUBLE if seen.silence else lanes.Standing.WELL
    lanes.note(RESOLVERS.key, answer)
    zones: dict[str, str] = {}
    findings = report.together(
        [
            *_of_count(certificate, account),
            *rules.of_silence(seen, certificate.domain),
            *rules.of_caa(seen, names, identities, account.url, method.type),
            *(
                _of_proof(certificate, credential, seen, target, but, zones, shown)
                if method.in_zone
                else ()
            ),
        ]
    )
    by_record = {
        record: zone.name
        for record, zone in seen.zones.items()
        if isinstance(zone, Zone) and not is_listed_suffix(zone.name)
    }
    return findings, base.Known(seen.paths, zones, by_record)


def _of_proof(
    certificate: Certificate,
    credential: DnsCredential | None,
    seen: Survey,
    target: str,
    but: Collection[str],
    zones: dict[str, str],
    shown: Cache[str] | None,
) -> Iterator[Finding]:
    """Yield the findings about the zones that the proof is written into. Add them to `zones`."""
    yield from rules.of_cnames(seen, target)
    yield from rules.of_zones(seen)
    places = _places(seen, target, but)
    if credential:
        yield from _of_credential(certificate, credential, places, zones, shown)


def _written_before(issuance: Issuance) -> list[str]:
    """Return the TXT names that the last attempt wrote with the same credential.

    The credential can read the zones of these names.
    """
    if issuance.is_first:
        return []
    last = issuance.certificate.issuances.filter(pk__lt=issuance.pk).order_by("-pk").first()
    if not last:
        return []
    records = TxtRecord.objects.filter(
        authorizations__issuance=last, credential=issuance.credential
    )
    return list(
        records.filter(presented_at__isnull=False).exclude(zone="").values_list("name", flat=True)
    )


# --- The CA's data ---


def _identities(account: AcmeAccount, client: CA) -> Sequence[str]:
    """Return the CA's names in CAA records.

    They are those of its directory, else those of the catalog.
    """
    try:
        with clock.limit(clock.time_left() * FOR_DIRECTORY):
            said = client.caa_identities()
    except (Trouble, Wait):  # the order step will show the fault
        said = ()
    known = catalog.known().get(account.ca_provider)
    return said or (known.caa_identities if known else ())


def _of_count(certificate: Certificate, account: AcmeAccount) -> Iterator[Finding]:
    info = catalog.known().get(account.ca_provider)
    count = len(certificate.names)
    if info and count > (most := most_names(info, certificate.profile)):
        kind = _("a certificate")
        if certificate.profile:
            kind = _("a certificate of the profile %(profile)s", profile=certificate.profile)
        what = _(
            "%(domain)s has %(count)s names, and %(label)s takes at most %(most)s in "
            "%(kind)s. Split it into several.",
            domain=certificate.domain,
            count=count,
            label=info.label,
            most=most,
            kind=kind,
        )
        yield Finding("too_many_names", certificate.domain, "", what)


def most_names(info: catalog.CAInfo, profile: str) -> int:
    """Return how many names the CA takes in one certificate of the profile."""
    return info.profiles.get(profile, info.max_names)


# --- The credential ---


class Place(NamedTuple):
    """A name, the place of its TXT record, and the zone that resolvers see there."""

    name: str
    final: str
    zone: Zone | None


def _places(seen: Survey, target: str, but: Collection[str]) -> list[Place]:
    """Return one place for each zone that is to be written to."""
    places: dict[str, Place] = {}
    for name, path in seen.paths.items():
        if (
            (path.trouble and not path.is_unknown)
            or path.final in but
            or (target and path.final != target)
        ):
            continue
        found = seen.zones.get(path.final)
        zone = found if isinstance(found, Zone) else None
        places.setdefault(
            zone.name if zone else registered_domain(path.final), Place(name, path.final, zone)
        )
    return list(places.values())[:MOST_ZONES]


def _of_credential(
    certificate: Certificate,
    credential: DnsCredential,
    places: Sequence[Place],
    zones: dict[str, str],
    shown: Cache[str] | None,
) -> Iterator[Finding]:
    """Yield a finding for each zone that the provider does not show to the credential.

    Add the others to `zones`, by the name of the TXT record. Zones in `shown` are taken from there,
    and others are added.

    A provider that does not answer does not block, because the present step asks it again.
    """
    if disabled := credential.disabled:
        yield Finding(
            "provider_disabled", certificate.domain, "", registry.what_is_disabled(disabled)
        )
        return
    for name, final, seen in places:
        key = f"{credential.pk} {credential.secret_id} {credential.public} {seen and seen.name}"
        if shown and seen and (kept := shown.get(key)):
            zones[final] = kept
            continue
        try:
            with lanes.enter(registry.lane_of_credential(credential), certificate.owner_id):
                provider = registry.open_credential(credential)
                zone = provider.zone_of(final)
            doubt = provider.doubt(zone, final, seen) if seen else ""
        except Trouble as troubled:
            trouble = delegation.for_owner(certificate, credential, troubled)
            refused = trouble.permanent and trouble.code.startswith("dns_")
            code = trouble.code.removeprefix("dns_") if refused else "credential_unchecked"
            said = getattr(trouble, "said", "")
            yield Finding(code, name, f"{final} TXT", trouble.what, blocks=refused, said=said)
        except lanes.Full:
            raise
        except Wait as wait:
            yield Finding("credential_unchecked", name, f"{final} TXT", wait.what, blocks=False)
        else:
            zones[final] = zone
            if shown and seen and not doubt:
                shown.put(key, zone)
            if doubt and credential.owner_id == certificate.owner_id:
                yield Finding("zone_unseen", name, f"{final} TXT", doubt, blocks=False)
