"""The owner's own name server: dynamic updates (RFC 2136) over TCP.

Messages are signed with TSIG (RFC 8945) when the credential has a key. A question before an update
must never need more rights than the update. Some servers take signed updates, but answer no signed
question, or no question at all.
"""

from collections.abc import Mapping
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tsig
import dns.update
from dns.rdtypes.ANY.TXT import TXT

from certctrl import clock, errors
from certctrl.sentences import sentence as _
from dnsclient.names import a_label, is_inside, suffixes
from dnsclient.queries import KNOWN
from dnsproviders.base import ProviderError, SeenZone
from dnsproviders.models import TxtRecord
from dnsproviders.providers.rfc2136.exchange import NameServer, NoAnswer, Unsigned
from dnsproviders.providers.rfc2136.fields import FIELDS, WEAK_ALGORITHMS

# Seconds for a question. An update may take all the time that is left.
PATIENCE = 5.0


class RFC2136(NameServer):
    name = "RFC 2136"
    is_named_by_owner = True
    fields = FIELDS

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.is_asked_signed = self.has_key
        self.origins: dict[str, str] = {}  # what SOA records said, by zone

    @classmethod
    def party(cls, public: Mapping[str, Any]) -> str:
        return f"{public['server']}:{public['port']}"

    @classmethod
    def check_together(cls, given: Mapping[str, Any]) -> None:
        for name, other in (("key_name", "secret"), ("secret", "key_name")):
            if given.get(other) and not given.get(name):
                raise errors.MissingField(
                    _(
                        "%(name)s is missing, but %(other)s is given. Give both or neither.",
                        name=name,
                        other=other,
                    ),
                    field=name,
                )

    @classmethod
    def note(cls, public: Mapping[str, Any]) -> str:
        if not public.get("key_name"):
            return _(
                "Updates are sent without a key, and only this server's address "
                "authorizes them. That is weak. Use a TSIG key if the name server "
                "supports one."
            )
        if public.get("algorithm") in WEAK_ALGORITHMS:
            return _(
                "%(algorithm)s is weak. Use hmac-sha256 if the name server supports it.",
                algorithm=public["algorithm"],
            )
        return ""

    def zone_of(self, name: str) -> str:
        """Return the name of the zone that holds `name`.

        It is the first of these:

        - the zone of the credential. Then `name` must be inside it.
        - the zone whose SOA record the server shows for `name` or the nearest name above.
        - the zone for which the server takes an empty update.
        """
        if self.public.get("zone"):
            return self._given_zone(name)
        hidden: list[str] = []
        silence: NoAnswer | None = None
        for suffix in suffixes(name, shortest=1):
            asked = dns.name.from_text(suffix)
            try:
                answer, is_proper = self._answer_to(_query(asked, dns.rdatatype.SOA))
            except NoAnswer as nothing:
                silence = nothing
                hidden = suffixes(name, shortest=1)
                break
            if answer.rcode() not in (*KNOWN, dns.rcode.SERVFAIL):
                hidden.append(suffix)
                continue
            # This may be the right zone. Going on to the name above could find a wrong one.
            if answer.rcode() == dns.rcode.SERVFAIL:
                raise self._refusal(answer, _("asked which zone has %(name)s", name=name))
            zone = _soa_owner(answer, asked)
            if zone:
                text = zone.to_text(omit_final_dot=True).lower()
                if not is_proper:
                    self._be_let_in(text)
                self.origins[text] = origin_of(answer)
                return text
            if _delegation(answer, asked):
                what = _(
                    "%(where)s delegates %(suffix)s to other servers. Give the primary "
                    "server of that zone.",
                    where=self._where(),
                    suffix=suffix,
                )
                raise ProviderError("dns_zone_not_found", what, permanent=True)
        for suffix in hidden:
            try:
                rcode = self._probe(suffix)
            except Unsigned:
                # Some servers do not sign the answer about a zone that they do not have.
                continue
            if rcode == dns.rcode.NOERROR:
                return suffix
            if rcode is None and silence:
                raise silence
        what = _(
            "%(where)s shows this %(who)s no zone for %(name)s. If it has one, give its "
            "name in `zone`.",
            where=self._where(),
            who=self._who(),
            name=name,
        )
        raise ProviderError("dns_zone_not_found", what, permanent=True)

    def doubt(self, zone: str, name: str, seen: SeenZone) -> str:
        """Return why the public may not see the record, or "".

        A server with views writes an update to the view of the key. The public may see another one.
        """
        if seen.name != zone:
            return _(
                "%(where)s shows %(name)s to this %(who)s in its zone %(zone)s, but "
                "resolvers see it in the zone %(seen_name)s. They may never see the TXT "
                "record. Give the primary server of that zone, or a key of the public "
                "view.",
                where=self._where(),
                name=name,
                who=self._who(),
                zone=zone,
                seen_name=seen.name,
            )
        try:
            own = self.origins.get(zone) or self._origin(zone)
        except ProviderError:
            # The update will report this failure.
            return ""
        if own and seen.origins and own not in seen.origins:
            return _(
                "%(where)s shows this %(who)s another zone %(zone)s than resolvers see. "
                "Its SOA record names %(own)s, and that of resolvers names %(origins)s. "
                "They may never see the TXT record. Give a key of the public view.",
                where=self._where(),
                who=self._who(),
                zone=zone,
                own=own,
                origins=", ".join(sorted(seen.origins)),
            )
        return ""

    def _origin(self, zone: str) -> str:
        answer, _ = self._answer_to(_query(dns.name.from_text(zone), dns.rdatatype.SOA))
        return origin_of(answer)

    def _given_zone(self, name: str) -> str:
        zone = str(self.public["zone"])
        if not is_inside(a_label(name), a_label(zone)):
            what = _(
                "%(name)s is not inside %(zone)s, the zone of the credential. Use "
                "another credential.",
                name=name,
                zone=zone,
            )
            raise ProviderError("dns_zone_not_found", what, permanent=True)
        return zone

    def _be_let_in(self, zone: str) -> None:
        """Raise ProviderError when the zone takes no update from this key.

        The server showed the zone only to a question without the key.
        """
        if self.has_key and self._probe(zone) == dns.rcode.NOTAUTH:
            what = _(
                "%(where)s has a zone %(zone)s, but not for this key, which belongs to "
                "another view. Give a key of the public view.",
                where=self._where(),
                zone=zone,
            )
            raise ProviderError("dns_zone_not_found", what, permanent=True)

    def _probe(self, zone: str) -> dns.rcode.Rcode | None:
        """Send an update that changes nothing, and return the rcode of the answer.

        The server checks the zone first, then the prerequisites, then the permission (RFC 2136,
        section 3). Return None when there is no answer, or an unsigned one to a signed message.
        Raise ProviderError when the server refuses the key.
        """
        try:
            return self._ask(dns.update.UpdateMessage(dns.name.from_text(zone))).rcode()
        except (Unsigned, NoAnswer) as error:
            if error.permanent:
                raise
            return None

    def present(self, record: TxtRecord) -> None:
        """Send an update that adds the record.

        The server ignores a record that it already has (RFC 2136, section 3.4.2.2).
        """
        update = _update(record)
        update.add(_owner(record), record.ttl, _rdata(record))
        self._change(update, record)

    def cleanup(self, record: TxtRecord) -> int:
        """Send an update that removes the record.

        One update is enough where the record is the only one of its name. Otherwise a question
        comes first, because the answer to an update does not say what was removed. The update is
        left out only when the key's own view does not have the record.
        Return 1 for the update, also when the server does not say whether the record exists.
        Return 0 when it says that the record does not exist.
        """
        if self._removes_the_only_one(record):
            return 1
        try:
            answer, is_proper = self._answer_to(_query(_owner(record), dns.rdatatype.TXT))
        except NoAnswer:
            answer = dns.message.Message()
            is_proper = False
            answer.set_rcode(dns.rcode.REFUSED)
        is_told = answer.rcode() in KNOWN
        is_there = is_told and any(
            _rdata(record) in each for each in answer.answer if each.name == _owner(record)
        )
        if is_proper and is_told and not is_there:
            return 0
        update = _update(record)
        update.delete(_owner(record), _rdata(record))
        self._change(update, record)
        return 0 if is_told and not is_there else 1

    def _removes_the_only_one(self, record: TxtRecord) -> bool:
        """Remove the record if its name has no other TXT record. Return whether it was removed."""
        update = _update(record)
        # The whole set must be this record (RFC 2136, section 2.4.2).
        update.present(_owner(record), _rdata(record))
        update.delete(_owner(record), _rdata(record))
        return self._ask(update).rcode() == dns.rcode.NOERROR

    def check(self) -> None:
        """Ask the server a signed question, to check the key.

        With a wrong key it answers BADKEY or BADSIG (RFC 8945, section 5.2). BIND checks the key in
        every question. Knot DNS checks it only in questions about its zones, so that several names
        are tried. Some servers know their keys only in updates. When no question proves the key, an
        empty update is sent.
        """
        names = self._maybe_zones()
        if not self.has_key:
            self._ask(_query(dns.name.from_text(names[0]), dns.rdatatype.SOA))
            return
        silent: NoAnswer | None = None
        for name in names:
            try:
                with clock.limit(PATIENCE):
                    self._ask(_query(dns.name.from_text(name), dns.rdatatype.SOA))
            except Unsigned:
                continue
            except NoAnswer as error:
                silent = error
                break
            except ProviderError as error:
                if not error.permanent:
                    raise
                break
            return
        if any(self._proves(name) for name in names if name != "."):
            return
        if silent:  # neither a question nor an update was answered
            raise silent
        what = _(
            "%(where)s answers, but does not say whether it knows the key. The first "
            "record shows it.",
            where=self._where(),
        )
        raise ProviderError("dns_refused", what)

    def _proves(self, name: str) -> bool:
        """Return whether an empty update of `name` shows that the server knows the key.

        The name need not be a zone.
        """
        try:
            return self._probe(name) is not None
        except Unsigned:
            return False

    def _maybe_zones(self) -> list[str]:
        """Return names that may be zones of the server.

        These are:

        - the credential's zone
        - the zone of its last record
        - the root
        - the suffixes of the key's name and of the server's name, six at most
        """
        record = self.credential.records.exclude(zone="").last() if self.credential.pk else None
        known = [self.public.get("zone"), record.zone if record else ""]
        hints = [
            *suffixes(self.public.get("key_name") or self.public["server"]),
            *suffixes(self.public["server"]),
        ]
        return [*filter(None, known), ".", *hints[:6]]

    def _change(self, update: dns.update.UpdateMessage, record: TxtRecord) -> None:
        answer = self._ask(update)
        if answer.rcode() != dns.rcode.NOERROR:
            asked = _(
                "asked to change %(name)s in the zone %(zone)s", name=record.name, zone=record.zone
            )
            raise self._refusal(answer, asked)

    def _answer_to(self, query: dns.message.Message) -> tuple[dns.message.Message, bool]:
        """Return the answer to a question, and whether the answer is proper.

        A proper answer is for the key, or the credential has no key. When the signed question gets
        no usable answer, the question is sent without the key.
        Raise NoAnswer when the server does not answer that either.
        """
        signed = None
        if self.is_asked_signed:
            try:
                with clock.limit(min(PATIENCE, clock.time_left() / 3)):
                    signed = self._ask(query)
            except NoAnswer:
                # This holds for one turn, as long as this object lives.
                self.is_asked_signed = False
            except Unsigned:
                pass
            except ProviderError as error:
                if error.code != "dns_credential_refused":
                    raise
            if signed is not None and signed.rcode() in KNOWN:
                return signed, True
        with clock.limit(min(PATIENCE, clock.time_left())):
            answer = self._exchange(_query(query.question[0].name, query.question[0].rdtype))
        return answer, not self.has_key


def _query(name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype)
    # Ask only for the server's own zones, and not for the result of its questions to others.
    query.flags &= ~dns.flags.RD
    return query


def _soa_owner(answer: dns.message.Message, asked: dns.name.Name) -> dns.name.Name | None:
    """Return the zone of `asked`: the owner of the SOA record in an authoritative answer.

    In a negative answer, the SOA record is in the authority section. Return None without one.
    """
    if not answer.flags & dns.flags.AA:
        return None
    for rrset in (*answer.answer, *answer.authority):
        if (
            rrset.rdtype == dns.rdatatype.SOA
            and asked.is_subdomain(rrset.name)
            and rrset.name != dns.name.root
        ):
            return rrset.name
    return None


def origin_of(answer: dns.message.Message) -> str:
    """Return the primary server and the mailbox of the SOA record in the answer, or "".

    They are the same on every server of the zone. A negative answer has the record in its
    authority section.
    """
    for rrset in (*answer.answer, *answer.authority):
        if rrset.rdtype == dns.rdatatype.SOA:
            return f"{rrset[0].mname} {rrset[0].rname}".lower()
    return ""


def _delegation(answer: dns.message.Message, asked: dns.name.Name) -> bool:
    """Return whether the answer is a referral to a zone that holds `asked`.

    A referral to the root does not count. It only says that the server has no such zone.
    """
    return answer.rcode() == dns.rcode.NOERROR and any(
        rrset.rdtype == dns.rdatatype.NS
        and rrset.name != dns.name.root
        and asked.is_subdomain(rrset.name)
        for rrset in answer.authority
    )


def _update(record: TxtRecord) -> dns.update.UpdateMessage:
    return dns.update.UpdateMessage(dns.name.from_text(record.zone))


def _owner(record: TxtRecord) -> dns.name.Name:
    return dns.name.from_text(record.name)


def _rdata(record: TxtRecord) -> TXT:
    return TXT(dns.rdataclass.IN, dns.rdatatype.TXT, [record.value.encode()])
