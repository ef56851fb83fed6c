"""The zones of the lab's name server: answers to questions, and updates.

See RFC 1034, section 4.3.2, and RFC 2136, section 3.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.rrset
import dns.update
import dns.zone

IN, ANY, NONE = dns.rdataclass.IN, dns.rdataclass.ANY, dns.rdataclass.NONE
SOA, NS, CNAME = dns.rdatatype.SOA, dns.rdatatype.NS, dns.rdatatype.CNAME
LONGEST_PATH = 10  # CNAMEs that are followed within the server's zones


def apex(
    addresses: Iterable[str] = ("127.0.0.1",), servers: Iterable[str] = ("ns1",), minimum: int = 5
) -> str:
    """Return the first lines of a zone: SOA, NS, and the addresses of the apex and each server."""
    lines = [f"@ 60 SOA ns1 hostmaster 1 3600 600 86400 {minimum}"]
    for server in servers:
        lines.append(f"@ 60 NS {server}")
        if "." not in server:
            lines += [
                f"{server} 60 {'AAAA' if ':' in address else 'A'} {address}"
                for address in addresses
            ]
    lines += [f"@ 60 {'AAAA' if ':' in address else 'A'} {address}" for address in addresses]
    return "\n".join(lines) + "\n"


def load(origin: str, text: str) -> dns.zone.Zone:
    """Return a zone from the lines of its zone file."""
    return dns.zone.from_text(f"$TTL 60\n{text}", origin=origin.rstrip(".") + ".", relativize=False)


@dataclass
class Found:
    """The sections of the response for one name and type."""

    rcode: dns.rcode.Rcode = dns.rcode.NOERROR
    authoritative: bool = True
    answer: list[dns.rrset.RRset] = field(default_factory=list)
    authority: list[dns.rrset.RRset] = field(default_factory=list)
    additional: list[dns.rrset.RRset] = field(default_factory=list)


class Zones:
    """Several zones. The deepest zone that contains a name answers for it. The caller must lock."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        loaded = [load(origin, text) for origin, text in texts.items()]
        self._by_origin = {origin_of(zone): zone for zone in loaded}

    def texts(self) -> dict[str, str]:
        return {
            origin.to_text(): zone.to_text(relativize=False)
            for origin, zone in self._by_origin.items()
        }

    def holding(self, name: dns.name.Name) -> dns.zone.Zone | None:
        """Return the zone with the longest origin at or above the name."""
        while True:
            if zone := self._by_origin.get(name):
                return zone
            if name == dns.name.root:
                return None
            name = name.parent()

    def exactly(self, origin: dns.name.Name) -> dns.zone.Zone | None:
        return self._by_origin.get(origin)

    def find(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Found:
        """Return the answer to one question, with REFUSED for names outside of the zones."""
        found = Found()
        for _ in range(LONGEST_PATH):
            zone = self.holding(name)
            if zone is None:
                found.rcode = found.rcode if found.answer else dns.rcode.REFUSED
                found.authoritative = bool(found.answer)
                return found
            target = _add(found, zone, name, rdtype)
            if target is None:
                return found
            name = target
        return found


def origin_of(zone: dns.zone.Zone) -> dns.name.Name:
    assert zone.origin is not None
    return zone.origin


def _add(
    found: Found, zone: dns.zone.Zone, name: dns.name.Name, rdtype: dns.rdatatype.RdataType
) -> dns.name.Name | None:
    """Add the records of this zone for the name. Return the target of a CNAME, or None."""
    if cut := _delegation(zone, name):
        found.authoritative = bool(found.answer)
        found.authority.append(cut)
        found.additional += _glue(zone, cut)
        return None
    source = _source_of(zone, name)
    node = zone.get_node(source) if source else None
    if node is None and not _has_below(zone, name):
        found.rcode = dns.rcode.NXDOMAIN
    rdatasets = list(node.rdatasets) if node else []
    wanted = [each for each in rdatasets if rdtype in (each.rdtype, dns.rdatatype.ANY)]
    cname = next((each for each in rdatasets if each.rdtype == CNAME), None)
    if not wanted and cname:
        found.answer.append(dns.rrset.from_rdata_list(name, cname.ttl, list(cname)))
        return cname[0].target  # type: ignore[no-any-return]
    found.answer += [dns.rrset.from_rdata_list(name, each.ttl, list(each)) for each in wanted]
    if not wanted:
        found.authority.append(zone.find_rrset(origin_of(zone), SOA))
    return None


def _delegation(zone: dns.zone.Zone, name: dns.name.Name) -> dns.rrset.RRset | None:
    """Return the NS records that delegate `name`, the highest ones below the apex."""
    cuts = (zone.get_rrset(each, NS) for each in _down_to(zone, name))
    return next((cut for cut in cuts if cut), None)


def _down_to(zone: dns.zone.Zone, name: dns.name.Name) -> Iterator[dns.name.Name]:
    """Yield the names from just below the apex down to `name`."""
    depth = len(origin_of(zone))
    for labels in range(depth + 1, len(name) + 1):
        yield name.split(labels)[1]


def _glue(zone: dns.zone.Zone, cut: dns.rrset.RRset) -> list[dns.rrset.RRset]:
    hosts = [each.target for each in cut if each.target.is_subdomain(origin_of(zone))]
    kinds = (dns.rdatatype.A, dns.rdatatype.AAAA)
    found = (zone.get_rrset(host, kind) for host in hosts for kind in kinds)
    return [rrset for rrset in found if rrset]


def _source_of(zone: dns.zone.Zone, name: dns.name.Name) -> dns.name.Name | None:
    """Return the name, or the wildcard at its closest encloser (RFC 4592), or None."""
    if zone.get_node(name) or _has_below(zone, name):
        return name
    above = name.parent()
    while above != zone.origin and not zone.get_node(above) and not _has_below(zone, above):
        above = above.parent()
    wildcard = dns.name.Name((b"*", *above.labels))
    return wildcard if zone.get_node(wildcard) else None


def _has_below(zone: dns.zone.Zone, name: dns.name.Name) -> bool:
    """Return whether names exist below this one. An empty non-terminal exists without records."""
    return any(each != name and each.is_subdomain(name) for each in zone)


# --- Updates ---


def apply(zone: dns.zone.Zone, update: dns.update.UpdateMessage) -> dns.rcode.Rcode:
    """Apply an authorized update, and return the response code.

    Only NOERROR changes the zone.
    """
    for rrset in (*update.prerequisite, *update.update):
        if not rrset.name.is_subdomain(origin_of(zone)):
            return dns.rcode.NOTZONE
    for rrset in update.prerequisite:
        rcode = _check(zone, rrset)
        if rcode != dns.rcode.NOERROR:
            return rcode
    for rrset in update.update:
        _change(zone, rrset)
    _next_serial(zone)
    return dns.rcode.NOERROR


def _check(zone: dns.zone.Zone, rrset: dns.rrset.RRset) -> dns.rcode.Rcode:
    """Return the result of one prerequisite (RFC 2136, sections 2.4 and 3.2)."""
    about_the_name = rrset.rdtype == dns.rdatatype.ANY
    node = zone.get_node(rrset.name)
    found = node.get_rdataset(IN, rrset.rdtype) if node and not about_the_name else None
    if rrset.deleting == NONE:
        if about_the_name:
            return dns.rcode.YXDOMAIN if node else dns.rcode.NOERROR
        return dns.rcode.YXRRSET if found else dns.rcode.NOERROR
    if rrset.deleting == ANY:
        if about_the_name:
            return dns.rcode.NOERROR if node else dns.rcode.NXDOMAIN
        return dns.rcode.NOERROR if found else dns.rcode.NXRRSET
    return dns.rcode.NOERROR if found and set(found) == set(rrset) else dns.rcode.NXRRSET


def _change(zone: dns.zone.Zone, rrset: dns.rrset.RRset) -> None:
    """Add or delete one record or record set (RFC 2136, sections 2.5 and 3.4.2).

    SOA and NS of the apex stay.
    """
    keeps = rrset.name == zone.origin
    if rrset.deleting == ANY:
        node = zone.get_node(rrset.name)
        for each in list(node.rdatasets) if node else []:
            if rrset.rdtype in (each.rdtype, dns.rdatatype.ANY) and not (
                keeps and each.rdtype in (SOA, NS)
            ):
                zone.delete_rdataset(rrset.name, each.rdtype, each.covers)
    elif rrset.deleting == NONE:
        found = zone.get_rdataset(rrset.name, rrset.rdtype)
        if found and not (keeps and rrset.rdtype in (SOA, NS)):
            left = [rdata for rdata in found if rdata not in rrset]
            zone.delete_rdataset(rrset.name, rrset.rdtype)
            if left:
                zone.replace_rdataset(rrset.name, dns.rdataset.from_rdata_list(found.ttl, left))
    elif rrset.rdtype != SOA and _may_stand(zone, rrset):
        found = zone.find_rdataset(rrset.name, rrset.rdtype, create=True)
        for rdata in rrset:
            found.add(rdata, rrset.ttl)


def _may_stand(zone: dns.zone.Zone, rrset: dns.rrset.RRset) -> bool:
    """Return whether the record may be added. A CNAME must be alone (RFC 2136, section 3.4.2.2)."""
    node = zone.get_node(rrset.name)
    types = {each.rdtype for each in node.rdatasets} if node else set()
    return not types - {CNAME} if rrset.rdtype == CNAME else CNAME not in types


def _next_serial(zone: dns.zone.Zone) -> None:
    soa = zone.find_rdataset(origin_of(zone), SOA)
    following = soa[0].replace(serial=(soa[0].serial + 1) & 0xFFFFFFFF)
    zone.replace_rdataset(origin_of(zone), dns.rdataset.from_rdata_list(soa.ttl, [following]))
