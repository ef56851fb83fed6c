"""Turn a survey of the zones into findings.

Each finding names the record at fault, and how to fix it.
"""

from collections.abc import Iterator, Sequence

from certctrl.sentences import sentence as _
from dnsclient.cnames import CHALLENGE
from dnsclient.survey import CnamePath, Fault, Survey, Unanswered, Zone
from issuance.challenges import delegation
from issuance.identifiers import WILDCARD, is_listed_suffix
from issuance.preflight import caa
from issuance.preflight.report import Finding, _listed

CNAME_CODES = {"dns_cname_loop": "cname_loop", "dns_cname_target": "cname_unwritable"}


# --- No answer ---


def of_silence(survey: Survey, name: str) -> Iterator[Finding]:
    if survey.silence:
        what = _(
            "DNS could not be asked about %(name)s (%(silence)s), so the answers for the "
            "CA are not known.",
            name=name,
            silence=survey.silence,
        )
        yield Finding("unanswered", name, "", what, blocks=False)


def _of_unanswered(name: str, each: Unanswered) -> Finding:
    """Return a blocking finding if DNSSEC is broken, else a warning.

    A bare SERVFAIL does not show whose fault it is.
    """
    if each.doubt.fault is Fault.BOGUS:
        return _bogus(name, each.doubt.zone)
    return Finding("unanswered", name, f"{each.name} {each.kind}", each.what, blocks=False)


def _bogus(name: str, zone: str) -> Finding:
    what = _(
        "The DNSSEC signatures of %(zone)s do not validate. Resolvers return SERVFAIL, "
        "and CAs validate too. Sign the zone again, or correct the DS record at its "
        "registrar.",
        zone=zone,
    )
    return Finding("dnssec", name, f"{zone} DS", what)


# --- CAA ---


def of_caa(
    survey: Survey, names: Sequence[str], identities: Sequence[str], account_url: str, method: str
) -> Iterator[Finding]:
    """Yield the findings about CAA records.

    They block only if the CA has known names for CAA records. A CA without such names may not read
    CAA records.
    """
    for name in names:
        policy = survey.policies.get(name.removeprefix(WILDCARD))
        if isinstance(policy, Unanswered):
            yield _of_caa_unanswered(name, policy)
        elif policy and (denied := caa.denial(name, policy, identities, account_url, method)):
            yield Finding(
                denied.code,
                name,
                f"{policy.owner} CAA",
                denied.what,
                blocks=bool(identities),
                fix=denied.fix,
            )


def _of_caa_unanswered(name: str, policy: Unanswered) -> Finding:
    if policy.doubt.fault is not Fault.DEAD:
        return _of_unanswered(name, policy)
    what = _(
        "The resolvers return SERVFAIL for the CAA records of %(name)s, and CAs refuse "
        "then. Its name servers must answer this question, even with an empty answer.",
        name=policy.name,
    )
    return Finding("caa_unanswered", name, f"{policy.name} CAA", what, blocks=False)


# --- CNAMEs ---


def of_cnames(survey: Survey, target: str) -> Iterator[Finding]:
    """Yield findings for challenges that lead to no place for a TXT record.

    If `target` is set, a challenge must lead there.
    """
    for name, path in survey.paths.items():
        if path.trouble:
            if not path.is_unknown:
                code = CNAME_CODES.get(path.trouble.code, "cname_unwritable")
                yield Finding(code, name, f"{path.final} CNAME", path.trouble.what)
        elif target and path.final != target:
            fix = f"{path.names[0]}. CNAME {target}."
            what = delegation.missing(path, target)
            yield Finding("delegation_missing", name, f"{path.names[0]} CNAME", what, fix=fix)
        else:
            yield from _of_place(name, path, survey.zones.get(path.final))


def _of_place(name: str, path: CnamePath, zone: Zone | Unanswered | None) -> Iterator[Finding]:
    if isinstance(zone, Zone) and is_listed_suffix(zone.name):
        yield _nowhere(name, path, zone)
    elif path.wildcard:
        above = path.final.partition(".")[2]
        what = _(
            "A wildcard's CNAME (to %(wildcard)s) answers for %(final)s. It is not "
            "followed. The TXT record is written at %(final)s and takes its place. "
            "Resolvers that kept the old answer see it later.",
            wildcard=path.wildcard,
            final=path.final,
        )
        yield Finding("wildcard_cname", name, f"*.{above} CNAME", what, blocks=False)


def _nowhere(name: str, path: CnamePath, zone: Zone) -> Finding:
    """Return the finding for a place in no registered domain.

    Only the suffix above answers, and says that there is no such name.
    """
    if len(path.names) == 1:
        what = _(
            "DNS has no zone for %(name)s. Nothing below %(zone_name)s answers for it. "
            "Register it, or delegate it.",
            name=name,
            zone_name=zone.name,
        )
        return Finding("no_zone", name, f"{name} NS", what, blocks=False)
    before = path.names[-2]
    what = _(
        "%(before)s is a CNAME to %(final)s, and no such domain exists. Fix the CNAME, "
        "or remove it.",
        before=before,
        final=path.final,
    )
    return Finding("cname_nowhere", name, f"{before} CNAME", what)


# --- Servers ---


def of_zones(survey: Survey) -> Iterator[Finding]:
    """Yield findings about the servers of the zones where TXT records are written."""
    zones: dict[str, tuple[str, Zone | Unanswered]] = {}
    for name, path in survey.paths.items():
        if zone := survey.zones.get(path.final):
            zones.setdefault(zone.name, (name, zone))
    for name, zone in zones.values():
        if isinstance(zone, Zone):
            yield from _of_servers(name, zone)
        else:
            yield (
                _of_dead(name, zone)
                if zone.doubt.fault is Fault.DEAD
                else _of_unanswered(name, zone)
            )


def _of_dead(name: str, each: Unanswered) -> Finding:
    what = _(
        "No name server answers for %(name)s. Resolvers return SERVFAIL, even without "
        "DNSSEC checking. Fix the servers of its zone, or its NS records.",
        name=each.name,
    )
    return Finding("no_server", name, f"{each.name} NS", what)


def _of_servers(name: str, zone: Zone) -> Iterator[Finding]:
    if zone.fault is Fault.BOGUS:
        yield _bogus(name, zone.name)
    elif not zone.serials:
        yield _of_deserted(name, zone)
    elif zone.fault is Fault.DEAD:
        what = _(
            "The resolvers find no server that answers for %(name)s, although its "
            "servers answer this machine.",
            name=zone.name,
        )
        yield Finding("unanswered", name, f"{zone.name} NS", what, blocks=False)
    else:
        yield from _of_some_servers(name, zone)


def _of_deserted(name: str, zone: Zone) -> Finding:
    """Return the finding for a zone whose servers do not answer this machine.

    It is the zone's fault only if the resolvers get no answer either.
    """
    servers = _listed((*zone.lame, *zone.silent, *zone.skipped)) or _("it has none")
    if zone.fault is not Fault.DEAD:
        what = _(
            "No name server of %(name)s answers this machine for the zone (%(servers)s), "
            "while the resolvers answer. Port 53 may be closed or redirected here. TXT "
            "records are then checked through the resolvers.",
            name=zone.name,
            servers=servers,
        )
        return Finding("servers_unreachable", name, f"{zone.name} NS", what, blocks=False)
    if zone.name.startswith(f"{CHALLENGE}."):
        what = _(
            "%(name)s is delegated by NS records to servers that do not answer for it "
            "(%(servers)s). Remove the NS records, or have the servers serve that zone.",
            name=zone.name,
            servers=servers,
        )
        return Finding("delegation_lame", name, f"{zone.name} NS", what)
    what = _(
        "No name server answers for %(name)s (%(servers)s). Fix the servers, or the "
        "zone's NS records.",
        name=zone.name,
        servers=servers,
    )
    return Finding("no_server", name, f"{zone.name} NS", what)


def _of_some_servers(name: str, zone: Zone) -> Iterator[Finding]:
    record = f"{zone.name} NS"
    if zone.lame:
        what = _(
            "Not every name server of %(name)s serves the zone (%(listed)s). Have them serve "
            "it, or take them out of the NS records.",
            name=zone.name,
            listed=_listed(zone.lame),
        )
        yield Finding("lame_server", name, record, what, blocks=False, servers=zone.lame)
    if zone.silent:
        what = _(
            "Not every name server of %(name)s answers this machine (%(listed)s), and a "
            "CA may meet the same. Fix them, or take them out of the NS records.",
            name=zone.name,
            listed=_listed(zone.silent),
        )
        yield Finding("silent_server", name, record, what, blocks=False, servers=zone.silent)
    if zone.skipped:
        what = _(
            "Not every name server of %(name)s can be asked (%(listed)s). Give each an "
            "address that the public can reach, or take it out of the NS records.",
            name=zone.name,
            listed=_listed(zone.skipped),
        )
        yield Finding("server_not_asked", name, record, what, blocks=False)
    if len(set(zone.serials.values())) > 1:
        serials = _listed(
            [
                _("%(label)s has serial %(serial)s", label=label, serial=serial)
                for label, serial in zone.serials.items()
            ]
        )
        what = _(
            "The name servers of %(name)s disagree: %(serials)s. Fix the transfer, if it stays so.",
            name=zone.name,
            serials=serials,
        )
        yield Finding("servers_disagree", name, f"{zone.name} SOA", what, blocks=False)
