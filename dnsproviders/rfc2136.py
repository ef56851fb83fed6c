"""A name server of one's own: dynamic updates (RFC 2136) signed with TSIG (RFC 8945), over TCP."""

import base64
import binascii
import ipaddress
import re
from collections.abc import Iterator
from contextlib import contextmanager

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
import requests
import structlog
from dns.rdtypes.ANY.TXT import TXT

from certctrl import clock, outgoing
from certctrl.sockets import connect_to_any
from dnsproviders.base import Field, Provider, ProviderError, suffixes
from dnsproviders.models import TxtRecord

ALGORITHMS = ("hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha224")  # RFC 8945, section 6, without SHA-1
log = structlog.get_logger()

HOST = re.compile(
    r"(?=.{1,253}$)([0-9A-Za-z_]([0-9A-Za-z_-]{0,61}[0-9A-Za-z])?\.)*[0-9A-Za-z]([0-9A-Za-z-]{0,61}[0-9A-Za-z])?"
)


def checked_server(value: str) -> str:
    """An address, or a host name without its last dot."""
    try:
        return str(ipaddress.ip_address(value.removeprefix("[").removesuffix("]")))
    except ValueError:
        host = value.removesuffix(".")
        if not HOST.fullmatch(host):
            raise ValueError("must be a host name or an address; the port has a field of its own") from None
        return host


def checked_key_name(value: str) -> str:
    try:
        return dns.name.from_text(value).to_text(omit_final_dot=True)
    except (dns.exception.DNSException, UnicodeError):
        raise ValueError("must be the key's name as in the server's configuration") from None


def checked_tsig_secret(value: str) -> str:
    try:
        decoded = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not decoded:
        raise ValueError("must be base64, as tsig-keygen and keymgr print it")
    return value


class Unsigned(ProviderError):
    """The answer to a signed question came without a signature."""


class RFC2136(Provider):
    name = "RFC 2136"
    is_named_by_owner = True
    fields = (
        Field("server", "Server", check=checked_server, help="Host name or address of the primary name server."),
        Field("port", "Port", required=False, default=53, integer=True, least=1, most=65535, help="TCP."),
        Field("key_name", "TSIG key name", check=checked_key_name),
        Field("algorithm", "TSIG algorithm", required=False, default="hmac-sha256", choices=ALGORITHMS),
        Field("secret", "TSIG secret", secret=True, check=checked_tsig_secret, help="Base64."),
    )

    def zone_of(self, name: str) -> str:
        """The name of the zone whose SOA the server shows for `name` or the nearest name above it."""
        for suffix in suffixes(name, shortest=1):
            asked = dns.name.from_text(suffix)
            try:
                answer = self._ask(_query(asked, dns.rdatatype.SOA))
            except Unsigned:  # Knot DNS looks at keys only within its zones
                continue
            if answer.rcode() == dns.rcode.SERVFAIL:  # perhaps the very zone: the one above it would be the wrong one
                raise self._refusal(answer, f"asked which zone holds {name}")
            zone = _soa_owner(answer, asked)
            if zone:
                return zone.to_text(omit_final_dot=True).lower()
            if _delegation(answer, asked):
                what = f"{self._where()} leaves {suffix} to other servers; give the primary server of that zone."
                raise ProviderError("dns_zone_not_found", what, permanent=True)
        what = f"{self._where()} has no zone for {name} that it shows to this key."
        raise ProviderError("dns_zone_not_found", what, permanent=True)

    def present(self, record: TxtRecord) -> None:
        """An update that adds; the server ignores what it has already (RFC 2136, section 3.4.2.2)."""
        update = _update(record)
        update.add(_owner(record), record.ttl, _rdata(record))
        self._change(update, record)

    def cleanup(self, record: TxtRecord) -> int:
        """Counted by asking first: an update says nothing about what it found."""
        answer = self._ask(_query(_owner(record), dns.rdatatype.TXT))
        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise self._refusal(answer, f"asked for {record.name}")
        if not any(_rdata(record) in rrset for rrset in answer.answer if rrset.name == _owner(record)):
            return 0
        update = _update(record)
        update.delete(_owner(record), _rdata(record))
        self._change(update, record)
        return 1

    def check(self) -> None:
        """Asks the server for something signed; with a wrong key it answers BADKEY or BADSIG (RFC 8945, section 5.2).

        BIND looks at the key whatever the question, Knot DNS only within its zones: hence the names that may be zones.
        """
        for name in self._maybe_zones():
            try:
                self._ask(_query(dns.name.from_text(name), dns.rdatatype.SOA))
            except Unsigned:
                continue
            return
        what = f"{self._where()} answers, but does not say whether it knows the key; the first record will tell."
        raise ProviderError("dns_refused", what)

    def _maybe_zones(self) -> list[str]:
        """Names to ask about: the last zone that was written to, the root, and what key and server are called."""
        record = self.credential.records.exclude(zone="").last() if self.credential.pk else None
        hints = [*suffixes(self.public["key_name"]), *suffixes(self.public["server"])]
        return ([record.zone] if record else []) + ["."] + hints[:6]

    def _change(self, update: dns.update.UpdateMessage, record: TxtRecord) -> None:
        answer = self._ask(update)
        if answer.rcode() != dns.rcode.NOERROR:
            raise self._refusal(answer, f"asked to change {record.name} in the zone {record.zone}")

    def _ask(self, message: dns.message.Message) -> dns.message.Message:
        """The answer whatever its rcode, its signature checked; raises Unsigned where it has none.

        Of several addresses the first that takes the connection is asked, and no other: an update that got no answer
        may have been carried out, and what another server says would not tell.
        """
        message.use_tsig(self._key())
        with self.going_out(), self._told_apart():
            addresses = outgoing.resolve(self.public["server"], self._port())
            with connect_to_any(addresses, None) as connection:
                connection.setblocking(False)  # as dnspython wants it
                return dns.query.tcp(message, self.public["server"], timeout=clock.time_left(), sock=connection)

    @contextmanager
    def _told_apart(self) -> Iterator[None]:
        """What can go wrong with one exchange, as ProviderError."""
        try:
            yield
        except requests.RequestException as exc:  # outgoing's are sentences
            what = f"{self._where()} could not be reached: {self.quote(str(exc))}."
            raise ProviderError("dns_unreachable", what) from None
        except dns.tsig.PeerBadKey:  # Knot DNS says so of a key that its ACL does not allow to do this, too
            what = f"{self._where()} does not take the TSIG key: it does not know it, or does not let it do this."
            raise ProviderError("dns_credential_refused", what, permanent=True) from None
        except dns.tsig.PeerBadSignature:
            what = f"{self._where()} refuses the TSIG signature: algorithm and secret must be those of its key."
            raise ProviderError("dns_credential_refused", what, permanent=True) from None
        except dns.tsig.PeerBadTime:
            what = f"{self._where()} says that the clocks differ: set this server's clock or the name server's."
            raise ProviderError("dns_refused", what) from None
        except (OSError, EOFError, dns.exception.Timeout) as exc:
            if outgoing.is_by_tenant():
                raise self._untold(exc) from None
            what = f"{self._where()} could not be reached over TCP ({type(exc).__name__})."
            raise ProviderError("dns_unreachable", what) from None
        except (dns.exception.DNSException, ValueError) as exc:
            if type(exc) is dns.exception.FormError:  # what dnspython raises for an answer without TSIG
                what = f"{self._where()} did not sign its answer: it has no such zone, or knows nothing of TSIG."
                raise Unsigned("dns_refused", what) from None
            if outgoing.is_by_tenant():
                raise self._untold(exc) from None
            what = f"{self._where()} answered with something that is no signed DNS message ({type(exc).__name__})."
            raise ProviderError("dns_bad_answer", what) from None

    def _untold(self, exc: Exception) -> ProviderError:
        """One sentence for whatever is there instead of a DNS server: ports are not the tenants' to scan."""
        log.info("rfc2136.untold", server=self.public["server"], port=self._port(), why=type(exc).__name__)
        what = f"{self._where()} could not be asked: nothing there answered over TCP as a DNS server does. Check both."
        return ProviderError("dns_unreachable", what)

    def _refusal(self, answer: dns.message.Message, what: str) -> ProviderError:
        rcode = answer.rcode()
        said = f"{self._where()} answered {dns.rcode.to_text(rcode)} when {what}"
        if rcode == dns.rcode.REFUSED:
            hint = "the key may not do that; see its update policy"
            return ProviderError("dns_credential_refused", f"{said}: {hint}.", permanent=True)
        return ProviderError("dns_refused", f"{said}.")

    def _key(self) -> dns.tsig.Key:
        algorithm = dns.name.from_text(self.public.get("algorithm") or "hmac-sha256")
        return dns.tsig.Key(self.public["key_name"], self.secret["secret"].reveal(), algorithm)

    def _port(self) -> int:
        return int(self.public.get("port") or 53)

    def _where(self) -> str:
        return f"The DNS server {self.public['server']} (port {self._port()})"


def _query(name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype)
    query.flags &= ~dns.flags.RD  # what this server has itself, not what it would find out elsewhere
    return query


def _soa_owner(answer: dns.message.Message, asked: dns.name.Name) -> dns.name.Name | None:
    """The zone of `asked`: its SOA is in the answer, or in the authority section of "no such name" and "no data"."""
    if not answer.flags & dns.flags.AA:
        return None
    for rrset in (*answer.answer, *answer.authority):
        if rrset.rdtype == dns.rdatatype.SOA and asked.is_subdomain(rrset.name) and rrset.name != dns.name.root:
            return rrset.name
    return None


def _delegation(answer: dns.message.Message, asked: dns.name.Name) -> bool:
    """A referral downwards; one to the root only says that the server knows nothing."""
    return answer.rcode() == dns.rcode.NOERROR and any(
        rrset.rdtype == dns.rdatatype.NS and rrset.name != dns.name.root and asked.is_subdomain(rrset.name)
        for rrset in answer.authority
    )


def _update(record: TxtRecord) -> dns.update.UpdateMessage:
    return dns.update.UpdateMessage(dns.name.from_text(record.zone))


def _owner(record: TxtRecord) -> dns.name.Name:
    return dns.name.from_text(record.name)


def _rdata(record: TxtRecord) -> TXT:
    return TXT(dns.rdataclass.IN, dns.rdatatype.TXT, [record.value.encode()])
