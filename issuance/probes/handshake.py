"""One TLS handshake with an address, to see which certificate it serves.

The certificate is not verified, because a wrong one must be seen too. Nothing else is sent.
"""

import ssl
from collections.abc import Callable
from typing import NamedTuple

from authorities import pki
from certctrl import addresses, clock
from certctrl.sentences import sentence as _
from certctrl.sockets import DeadlineSocket, DeadlineTLSSocket, connect_to_any
from certctrl.turns import Trouble

SECONDS = 10.0  # for the whole probe
LONGEST_LINE = 4096
MOST_LINES = 100  # of a greeting
SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # PostgreSQL's protocol 3.0, section 53.7


class Target(NamedTuple):
    """Where to look. `sni` is empty for none, and `starttls` for TLS from the start."""

    address: str
    port: int
    sni: str = ""
    starttls: str = ""

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


def look(target: Target) -> pki.Facts:
    """Return the facts about the leaf that the target serves.

    Raise Trouble when it serves none, or when this server may not call the address.
    """
    with clock.limit(SECONDS):
        try:
            with _connected(target) as plain:
                if target.starttls:
                    STARTTLS[target.starttls](plain)
                return _leaf(plain, target)
        except (addresses.AddressRefused, addresses.NameUnknown) as refused:
            raise Trouble("probe_refused", refused.args[0]) from None
        except addresses.DeadlineExceeded as late:
            raise Trouble("probe_unreachable", late.args[0]) from None
        except NoTLS as refused:
            raise Trouble(
                "probe_no_tls", _("%(target)s %(refused)s", target=target, refused=refused)
            ) from None
        except ssl.SSLError as exc:
            why = exc.reason.replace("_", " ").lower() if exc.reason else _("protocol error")
            what = _(
                "%(target)s ended the TLS handshake (%(why)s). Check its TLS settings and the SNI.",
                target=target,
                why=why,
            )
            raise Trouble("probe_no_tls", what) from None
        except TimeoutError:
            what = _(
                "%(target)s did not answer within %(seconds)s seconds. Check that it is up.",
                target=target,
                seconds=format(SECONDS, ".0f"),
            )
            raise Trouble("probe_unreachable", what) from None
        except (OSError, UnicodeError) as exc:
            why = getattr(exc, "strerror", None) or type(exc).__name__
            what = _(
                "%(target)s could not be reached (%(why)s). Check the address and the port.",
                target=target,
                why=why,
            )
            raise Trouble("probe_unreachable", what) from None


class NoTLS(Exception):
    """The server does not offer TLS. The message goes on after its address."""


def _connected(target: Target) -> DeadlineSocket:
    return connect_to_any(addresses.resolve(target.address, target.port), None)


def _leaf(plain: DeadlineSocket, target: Target) -> pki.Facts:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.sslsocket_class = DeadlineTLSSocket
    with context.wrap_socket(plain, server_hostname=target.sni or None) as encrypted:
        der = encrypted.getpeercert(binary_form=True)
    try:
        return pki.facts_of_der(der or b"")
    except ValueError:
        raise NoTLS(_("serves a certificate that cannot be read. Check its file.")) from None


# --- STARTTLS ---


def _line(plain: DeadlineSocket) -> bytes:
    """Return the next line. It is read byte by byte, so that nothing of the handshake is lost."""
    line = b""
    while not line.endswith(b"\n"):
        if not (byte := plain.recv(1)) or len(line) > LONGEST_LINE:
            raise NoTLS(_("ended the connection before TLS. Check the protocol (starttls)."))
        line += byte
    return line


def _smtp_answer(plain: DeadlineSocket, wanted: bytes) -> bool:
    """Read one reply of SMTP (RFC 5321, 4.2.1). Return whether it has the code `wanted`."""
    for _other in range(MOST_LINES):
        line = _line(plain)
        if line[3:4] != b"-":
            return line.startswith(wanted)
    raise NoTLS(_("sent too many lines. Check the protocol (starttls)."))


def _smtp(plain: DeadlineSocket) -> None:
    """RFC 3207."""
    greets = _smtp_answer(plain, b"220")
    plain.sendall(b"EHLO certctrl.invalid\r\n")
    hears = greets and _smtp_answer(plain, b"250")
    plain.sendall(b"STARTTLS\r\n")
    if not hears or not _smtp_answer(plain, b"220"):
        raise NoTLS(_("does not offer STARTTLS for SMTP. Switch it on there."))


def _imap(plain: DeadlineSocket) -> None:
    """RFC 9051, section 6.2.1."""
    greets = _line(plain).startswith(b"* OK")
    plain.sendall(b"a STARTTLS\r\n")
    for _other in range(MOST_LINES):
        line = _line(plain)
        if greets and line.startswith(b"a OK"):
            return
        if not line.startswith(b"*"):
            break
    raise NoTLS(_("does not offer STARTTLS for IMAP. Switch it on there."))


def _postgres(plain: DeadlineSocket) -> None:
    plain.sendall(SSL_REQUEST)
    if plain.recv(1) != b"S":
        raise NoTLS(_("does not offer TLS for PostgreSQL. Set ssl = on there."))


STARTTLS: dict[str, Callable[[DeadlineSocket], None]] = {
    "smtp": _smtp,
    "imap": _imap,
    "postgres": _postgres,
}
