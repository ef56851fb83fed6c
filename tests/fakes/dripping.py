"""A server on loopback that sends exactly the given bytes, slowly if wanted, also over TLS."""

import datetime
import ipaddress
import re
import socket
import ssl
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DRIPS = 600  # bytes, one each 0.05 seconds: half a minute
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = re.compile(rb"(?mi)^content-length: (\d+)")


def whole(body: bytes = b"{}", *headers: str, status: str = "200 OK") -> bytes:
    """Return a complete HTTP response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def redirect(to: str, status: str = "302 Found") -> bytes:
    return whole(b"", f"Location: {to}", status=status)


class Server:
    """The server.

    It sends one of `answers` for each request, and repeats the last one. Then it sends `drip`
    again and again, at most `DRIPS` times.
    """

    def __init__(
        self,
        *answers: bytes,
        drip: bytes = b"",
        context: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.answers = list(answers)
        self.drip = drip
        self.context = context
        self.requests: list[bytes] = []
        self.connections = 0
        self.names: list[str | None] = []
        self.hung_up = threading.Event()  # the client closed the connection during the drips
        self._stop = threading.Event()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}/"

    def close(self) -> None:
        self._stop.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn: socket.socket) -> None:
        with conn:
            try:
                if self.context:
                    conn = self.context.wrap_socket(conn, server_side=True)
                self._answer(conn)
            except OSError:
                self.hung_up.set()

    def _answer(self, conn: socket.socket) -> None:
        while request := self._read(conn):
            self.requests.append(request)
            conn.sendall(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
            # The number is limited, so that a test of a missing deadline fails and does not hang.
            for _ in range(DRIPS):
                if not self.drip or self._stop.wait(0.05):
                    break
                conn.sendall(self.drip)
            else:
                return

    def _read(self, conn: socket.socket) -> bytes:
        """Return the next request with its whole body, or b"" at the end of the connection."""
        request = b""
        while not _is_whole(request):
            part = conn.recv(65536)
            if not part:
                return b""
            request += part
        return request


def _is_whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    length = LENGTH.search(head)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)


class Dribble(Server):
    """A server that sends single bytes before any request, so that no TLS handshake ends."""

    def _answer(self, conn: socket.socket) -> None:
        conn.sendall(b"\x16\x03\x03\x40\x00")  # a handshake record of 16 kB
        for _ in range(DRIPS):
            if self._stop.wait(0.05):
                break
            conn.sendall(b"\x00")


def certificate_for(folder: Path, *names: str) -> tuple[ssl.SSLContext, Path]:
    """Return a server's TLS context for these names or IP addresses, and the file of its root.

    The certificate is self-signed, so it is its own root.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([_general(name) for name in names]), critical=False
        )
    )
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    root = folder / "root.pem"
    chain = folder / "server.pem"
    root.write_bytes(certificate)
    chain.write_bytes(private + certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context, root


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
