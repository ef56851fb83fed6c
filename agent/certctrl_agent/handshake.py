"""See by a TLS handshake which certificate an address serves."""

import contextlib
import socket
import ssl

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from certctrl_agent.errors import CheckError
from certctrl_agent.plan import TlsCheck

SECONDS = 5  # for a connection, and for each answer
LONGEST_LINE = 2000  # bytes


def confirm(check: TlsCheck, wanted: x509.Certificate) -> None:
    """Raise CheckError if the address does not serve the certificate now.

    A server may have an RSA and an ECDSA certificate for one name. The first handshake offers
    both. The second offers only the kind of the wanted one.
    """
    expected = wanted.public_bytes(Encoding.DER)
    found = served(check, any_kind())
    if found == expected:
        return
    with contextlib.suppress(CheckError):  # the server may not have TLS 1.2
        if served(check, one_kind(wanted)) == expected:
            return
    other = x509.load_der_x509_certificate(found)
    raise CheckError(
        f"{check} serves the certificate with serial {other.serial_number:x}, and not the new one "
        f"({wanted.serial_number:x})."
    )


def any_kind() -> ssl.SSLContext:
    """Return a context that accepts every certificate, because it only looks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def one_kind(certificate: x509.Certificate) -> ssl.SSLContext:
    """Return a context for which a server chooses a certificate of the same kind of key."""
    context = any_kind()
    is_rsa = isinstance(certificate.public_key(), rsa.RSAPublicKey)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("aRSA" if is_rsa else "aECDSA")
    return context


def served(check: TlsCheck, context: ssl.SSLContext) -> bytes:
    """Return the certificate that the address serves, in DER."""
    try:
        with socket.create_connection((check.address, check.port), SECONDS) as connection:
            begin_tls(connection, check.starttls)
            name = check.sni or None
            with context.wrap_socket(connection, server_hostname=name) as secured:
                return secured.getpeercert(binary_form=True) or b""
    except (OSError, ValueError) as error:
        what = getattr(error, "reason", None) or error
        raise CheckError(f"{check} completes no TLS handshake: {what}.") from None


def begin_tls(connection: socket.socket, protocol: str) -> None:
    match protocol:
        case "smtp":
            expect(smtp_reply(connection), b"220", "SMTP")
            connection.sendall(b"EHLO localhost\r\n")
            expect(smtp_reply(connection), b"250", "SMTP")
            connection.sendall(b"STARTTLS\r\n")
            expect(smtp_reply(connection), b"220", "SMTP")
        case "imap":
            expect(line(connection), b"* ", "IMAP")
            connection.sendall(b"a STARTTLS\r\n")
            answer = line(connection)
            while answer.startswith(b"* "):
                answer = line(connection)
            expect(answer, b"a OK", "IMAP")
        case "postgres":  # SSLRequest: length 8, code 80877103
            connection.sendall((8).to_bytes(4, "big") + (80877103).to_bytes(4, "big"))
            expect(connection.recv(1), b"S", "PostgreSQL")


def expect(answer: bytes, beginning: bytes, protocol: str) -> None:
    if not answer.startswith(beginning):
        shown = answer[:80].decode(errors="replace").strip()
        raise OSError(f"{protocol} responded with {shown!r} before TLS")


def smtp_reply(connection: socket.socket) -> bytes:
    """Read the lines of one reply. Only the last has no hyphen behind its code."""
    for _ in range(100):
        answer = line(connection)
        if answer[3:4] != b"-":
            return answer
    raise OSError("SMTP responded without end")


def line(connection: socket.socket) -> bytes:
    """Read one line, byte by byte, because what follows it belongs to TLS."""
    read = b""
    while not read.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte or len(read) > LONGEST_LINE:
            raise OSError("the connection ended in the middle of a line")
        read += byte
    return read
