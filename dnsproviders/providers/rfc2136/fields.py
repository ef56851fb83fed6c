"""The fields of a name server's credential, and what each may hold."""

import base64
import binascii
import ipaddress
import re

import dns.exception
import dns.name

from certctrl.sentences import sentence as _
from dnsproviders.base import Field

# RFC 8945, section 6. It forbids MD5 and advises against SHA-1, but some servers have only these.
ALGORITHMS = ("hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha224", "hmac-sha1", "hmac-md5")
WEAK_ALGORITHMS = ("hmac-sha1", "hmac-md5")
SPELLED = re.compile(r"(?:hmac-?)?(md5|sha-?(?:1|224|256|384|512))(?:\.sig-alg\.reg\.int)?")
HOST = re.compile(
    r"(?=.{1,253}$)([0-9A-Za-z_]([0-9A-Za-z_-]{0,61}[0-9A-Za-z])?\.)*[0-9A-Za-z]([0-9A-Za-z-]{0,61}[0-9A-Za-z])?"
)


def checked_server(value: str) -> str:
    """Return an IP address, or a host name without its last dot. Raise ValueError for others."""
    try:
        return str(ipaddress.ip_address(value.removeprefix("[").removesuffix("]")))
    except ValueError:
        host = value.removesuffix(".")
        if not HOST.fullmatch(host):
            raise ValueError(
                _("must be a host name or an address; give the port in `port`")
            ) from None
        return host


def checked_key_name(value: str) -> str:
    try:
        return dns.name.from_text(value).to_text(omit_final_dot=True)
    except (dns.exception.DNSException, UnicodeError):
        raise ValueError(_("must be the key's name as in the server's configuration")) from None


def checked_zone(value: str) -> str:
    try:
        zone = dns.name.from_text(value)
    except (dns.exception.DNSException, UnicodeError):
        zone = dns.name.root
    if zone == dns.name.root:
        raise ValueError(_("must be the zone's name, as in example.com"))
    return zone.to_text(omit_final_dot=True).lower()


def without_quotes(value: str) -> str:
    """Return the value without the quotes and the semicolon of a configuration file."""
    return value.strip().removesuffix(";").strip().strip("\"'").strip()


def without_spaces(value: str) -> str:
    """Return base64 from a configuration file without quotes, spaces and line breaks.

    RFC 4648, section 3.3, allows line breaks.
    """
    return "".join(without_quotes(value).split())


def canonical_algorithm(value: str) -> str:
    """Return the name in ALGORITHMS for the usual spellings.

    Examples: HMAC-SHA256, hmac_sha256, hmac-md5.sig-alg.reg.int. Return other values unchanged.
    """
    found = SPELLED.fullmatch(without_quotes(value).lower().rstrip(".").replace("_", "-"))
    return f"hmac-{found[1].replace('-', '')}" if found else value


def checked_tsig_secret(value: str) -> str:
    try:
        decoded = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not decoded:
        raise ValueError(_("must be base64, as tsig-keygen and keymgr print it"))
    return value


FIELDS = (
    Field(
        "server",
        _("Server"),
        check=checked_server,
        help=_("Host name or address of the primary name server."),
    ),
    Field(
        "port",
        _("Port"),
        required=False,
        default=53,
        integer=True,
        least=1,
        most=65535,
        help=_("TCP."),
    ),
    Field(
        "zone",
        _("Zone"),
        required=False,
        tidy=without_quotes,
        check=checked_zone,
        help=_("The zone; the server is asked for it when left out."),
    ),
    Field(
        "key_name",
        _("TSIG key name"),
        required=False,
        tidy=without_quotes,
        check=checked_key_name,
        help=_("Leave key and secret out for a server that authorizes by address, which is weak."),
    ),
    Field(
        "algorithm",
        _("TSIG algorithm"),
        required=False,
        default="hmac-sha256",
        choices=ALGORITHMS,
        tidy=canonical_algorithm,
    ),
    Field(
        "secret",
        _("TSIG secret"),
        secret=True,
        required=False,
        tidy=without_spaces,
        check=checked_tsig_secret,
        help=_("Base64."),
    ),
)
