"""Messages to the owner's name server over TCP, signed with TSIG (RFC 8945) if it has a key."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import dns.exception
import dns.message
import dns.name
import dns.opcode
import dns.query
import dns.rcode
import dns.tsig
import requests
import structlog

from certctrl import clock, outgoing
from certctrl.sentences import sentence as _
from certctrl.sockets import connect_to_any
from dnsproviders.base import Provider, ProviderError

# The meaning of an answer, by its rcode: the code of the error, and what to do. These errors are
# permanent. Others are tried again. RFC 2136, section 2.2, and RFC 1035, section 4.1.1.
RCODES = {
    dns.rcode.REFUSED: (
        "dns_credential_refused",
        _("The key, or this address, may not do that. Check the server's update policy."),
    ),
    dns.rcode.NOTAUTH: (
        "dns_zone_not_found",
        _("It has no such zone, or shows it to another key only. Check zone and key."),
    ),
    dns.rcode.NOTZONE: (
        "dns_zone_not_found",
        _("The name is not inside the zone. Check the zone."),
    ),
    dns.rcode.NOTIMP: ("dns_refused", _("It accepts no updates. Give the zone's primary server.")),
    dns.rcode.FORMERR: (
        "dns_refused",
        _("It does not understand the update. Check the server's documentation."),
    ),
}
log = structlog.get_logger()


def _sent(connection: socket.socket, wire: bytes) -> bytes:
    """Send a message over TCP and return the answer (RFC 1035, section 4.2.2)."""
    connection.sendall(struct.pack("!H", len(wire)) + wire)
    return _read(connection, *struct.unpack("!H", _read(connection, 2)))


def _read(connection: socket.socket, length: int) -> bytes:
    read = b""
    while len(read) < length:
        part = connection.recv(length - len(read))
        if not part:
            raise EOFError
        read += part
    return read


class Unsigned(ProviderError):
    """The answer to a signed question came without a signature."""


class NoAnswer(ProviderError):
    """The server took the connection and sent no answer."""


class NameServer(Provider):
    """The name server of a credential: an exchange of messages, and what each failure means."""

    @property
    def has_key(self) -> bool:
        return bool(self.public.get("key_name"))

    def _ask(self, message: dns.message.Message) -> dns.message.Message:
        """Return the answer with any rcode.

        With a key, the answer's signature is checked. Raise Unsigned when it has none.
        """
        if self.has_key:
            message.use_tsig(self._key())
        return self._exchange(message)

    def _exchange(self, message: dns.message.Message) -> dns.message.Message:
        """Send a message and return the answer.

        Of several addresses, only the first that takes the connection is asked. An update without
        an answer may have been carried out. An answer from another address would not show that.
        """
        method = dns.opcode.to_text(message.opcode())
        about = " ".join(str(each.name) for each in message.question)
        url = f"{self.public['server']}:{self._port()} {about}"
        began = clock.monotonic()
        try:
            answer = self._carried(message)
        except ProviderError as error:
            self.tell(method, url, began, error=error.what)
            raise
        self.tell(method, url, began, headers={"rcode": dns.rcode.to_text(answer.rcode())})
        return answer

    def _carried(self, message: dns.message.Message) -> dns.message.Message:
        with self.going_out(), self._told_apart():
            addresses = outgoing.resolve(self.public["server"], self._port())
            with connect_to_any(addresses, None) as connection, clock.limit(clock.time_left()):
                try:
                    wire = _sent(connection, message.to_wire())
                except (OSError, EOFError) as exc:
                    what: str = _(
                        "%(where)s does not answer over TCP (%(name)s). Check the server "
                        "and the firewall.",
                        where=self._where(),
                        name=type(exc).__name__,
                    )
                    if outgoing.is_by_tenant():
                        what = self._untold(exc).what
                    raise NoAnswer("dns_unreachable", what) from None
            return self._parsed(wire, message)

    def _parsed(self, wire: bytes, message: dns.message.Message) -> dns.message.Message:
        """Return the answer in `wire`. Check its signature if the message has one."""
        try:
            answer = dns.message.from_wire(wire, keyring=message.keyring, request_mac=message.mac)
        except dns.exception.FormError as exc:
            # dnspython raises exactly this class for an answer without TSIG.
            if type(exc) is not dns.exception.FormError:
                raise
            raise self._unsigned(dns.message.from_wire(wire, keyring=False)) from None
        if not message.is_response(answer):
            raise dns.query.BadResponse
        return answer

    def _unsigned(self, answer: dns.message.Message) -> Unsigned:
        """Return the error of an unsigned answer to a signed message.

        PowerDNS answers NOTAUTH or REFUSED, unsigned, to an unknown key and to a wrong signature.
        """
        if answer.rcode() in (dns.rcode.NOTAUTH, dns.rcode.REFUSED):
            what = _(
                "%(where)s refuses the signed message (%(rcode)s, unsigned). Check the "
                "key, its secret, its algorithm and both clocks. The key must be allowed "
                "to update.",
                where=self._where(),
                rcode=dns.rcode.to_text(answer.rcode()),
            )
            return Unsigned("dns_credential_refused", what, permanent=True)
        what = _(
            "%(where)s did not sign its answer. It has no such zone, or does not support "
            "TSIG. Check both.",
            where=self._where(),
        )
        return Unsigned("dns_refused", what)

    @contextmanager
    def _told_apart(self) -> Iterator[None]:
        """Raise ProviderError for every failure of an exchange."""
        try:
            yield
        except requests.RequestException as exc:
            # Exceptions of `certctrl.outgoing` are sentences.
            what = _(
                "%(where)s could not be reached. %(exc)s.",
                where=self._where(),
                exc=self.quote(str(exc)),
            )
            raise ProviderError("dns_unreachable", what) from None
        except dns.tsig.PeerBadKey:
            # Knot DNS also answers BADKEY to a key that its ACL does not allow to do this.
            what = _(
                "%(where)s does not know the TSIG key, or does not allow it to do this. "
                "Check the key and the update policy.",
                where=self._where(),
            )
            raise ProviderError("dns_credential_refused", what, permanent=True) from None
        except dns.tsig.PeerBadSignature:
            what = _(
                "%(where)s refuses the TSIG signature. Check the algorithm and the "
                "secret of the key.",
                where=self._where(),
            )
            raise ProviderError("dns_credential_refused", what, permanent=True) from None
        except dns.tsig.PeerBadTime:
            what = _(
                "%(where)s says that the clocks differ. Set the clock of this server or "
                "of the name server.",
                where=self._where(),
            )
            raise ProviderError("dns_refused", what) from None
        except (OSError, EOFError, dns.exception.Timeout) as exc:
            if outgoing.is_by_tenant():
                raise self._untold(exc) from None
            what = _(
                "%(where)s could not be reached over TCP (%(name)s). Check the server "
                "and the firewall.",
                where=self._where(),
                name=type(exc).__name__,
            )
            raise ProviderError("dns_unreachable", what) from None
        except (dns.exception.DNSException, ValueError) as exc:
            if outgoing.is_by_tenant():
                raise self._untold(exc) from None
            what = _(
                "%(where)s did not answer with a signed DNS message (%(name)s). Check "
                "the server and the key.",
                where=self._where(),
                name=type(exc).__name__,
            )
            raise ProviderError("dns_bad_answer", what) from None

    def _untold(self, exc: Exception) -> ProviderError:
        """Return one and the same error for all failures, so that tenants cannot scan ports.

        The log has the real reason.
        """
        log.info(
            "rfc2136.untold",
            server=self.public["server"],
            port=self._port(),
            why=type(exc).__name__,
        )
        what = _(
            "%(where)s did not answer over TCP as a DNS server does. Check server and port.",
            where=self._where(),
        )
        return ProviderError("dns_unreachable", what)

    def _refusal(self, answer: dns.message.Message, asked: str) -> ProviderError:
        rcode = answer.rcode()
        said = _(
            "%(where)s answered %(rcode)s when %(asked)s.",
            where=self._where(),
            rcode=dns.rcode.to_text(rcode),
            asked=asked,
        )
        if rcode in RCODES:
            code, hint = RCODES[rcode]
            return ProviderError(code, _("%(said)s %(hint)s", said=said, hint=hint), permanent=True)
        return ProviderError("dns_refused", said)

    def _key(self) -> dns.tsig.Key:
        named = self.public.get("algorithm") or "hmac-sha256"
        algorithm = dns.tsig.HMAC_MD5 if named == "hmac-md5" else dns.name.from_text(named)
        return dns.tsig.Key(self.public["key_name"], self.secret["secret"].reveal(), algorithm)

    def _port(self) -> int:
        return int(self.public.get("port") or 53)

    def _who(self) -> str:
        return _("key") if self.has_key else _("address")

    def _where(self) -> str:
        return _(
            "The DNS server %(server)s (port %(port)s)",
            server=self.public["server"],
            port=self._port(),
        )
