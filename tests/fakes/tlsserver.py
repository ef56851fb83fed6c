"""A server on loopback with one certificate: TLS from the start, or after STARTTLS."""

import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from authorities import pki
from issuance.models import CertificateVersion
from keystore import envelope

SSL_REQUEST = bytes.fromhex("0000000804d2162f")


def files_of(version: CertificateVersion, folder: Path) -> Path:
    """Write the chain and the key of a version into one file, and return its path."""
    key = pki.load_key(envelope.unseal(version.usable_key))
    path = folder / f"{version.serial}.pem"
    path.write_text(version.chain_pem + pki.key_pem(key))
    return path


class TLSServer:
    """The server. Use it as a context manager. `names` has the SNI of each handshake.

    `says` is what it sends first, and `answers` what it sends after each line. Without a
    certificate it never begins TLS.
    """

    def __init__(
        self, pem: Path | None = None, says: bytes = b"", answers: tuple[bytes, ...] = ()
    ) -> None:
        self.pem = pem
        self.says = says
        self.answers = answers
        self.heard: list[bytes] = []
        self.names: list[str | None] = []

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with suppress(OSError), connection:
                    self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        connection.sendall(self.says)
        for answer in self.answers:
            self.heard.append(connection.recv(1000))
            connection.sendall(answer)
        if self.pem is None:
            connection.recv(1)
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem)
        context.sni_callback = self._note
        with context.wrap_socket(connection, server_side=True) as encrypted:
            encrypted.recv(1)

    def _note(self, _socket: Any, name: str | None, _context: Any) -> None:
        self.names.append(name)
