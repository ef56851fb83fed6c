"""Small TLS servers on loopback: with and without STARTTLS, and with a wrong answer on purpose."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.agent.pki import Issued

Greeting = Callable[[socket.socket], bool]  # whether TLS begins now


def smtp(connection: socket.socket) -> bool:
    connection.sendall(b"220-mx.example.com\r\n220 ready\r\n")
    assert connection.recv(100).startswith(b"EHLO ")
    connection.sendall(b"250-mx.example.com\r\n250-SIZE 1000\r\n250 STARTTLS\r\n")
    assert connection.recv(100) == b"STARTTLS\r\n"
    connection.sendall(b"220 go ahead\r\n")
    return True


def imap(connection: socket.socket) -> bool:
    connection.sendall(b"* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n")
    assert connection.recv(100) == b"a STARTTLS\r\n"
    connection.sendall(b"* CAPABILITY IMAP4rev1\r\na OK begin\r\n")
    return True


def postgres(connection: socket.socket) -> bool:
    assert connection.recv(8) == bytes([0, 0, 0, 8, 4, 210, 22, 47])
    connection.sendall(b"S")
    return True


def refuses(answer: bytes) -> Greeting:
    def greet(connection: socket.socket) -> bool:
        connection.sendall(answer)
        return False

    return greet


class TlsServer:
    """`served` are the files that it reads for each connection, so a reload is not needed."""

    def __init__(self, folder: Path, *served: Issued, greeting: Greeting | None = None) -> None:
        self.folder = folder
        self.greeting = greeting
        self.names: list[str | None] = []
        self.serve(*served)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def serve(self, *served: Issued) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for number, issued in enumerate(served):
            place = self.folder / f"served-{number}.pem"
            place.write_text(issued.key_pem + issued.fullchain)
            self.context.load_cert_chain(place)
        self.context.sni_callback = lambda connection, name, context: self.names.append(name)

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                with contextlib.suppress(OSError, AssertionError), connection:
                    if self.greeting is None or self.greeting(connection):
                        with self.context.wrap_socket(connection, server_side=True) as secured:
                            secured.recv(1)


@contextlib.contextmanager
def tls_server(
    folder: Path, *served: Issued, greeting: Greeting | None = None
) -> Iterator[TlsServer]:
    server = TlsServer(folder, *served, greeting=greeting)
    try:
        yield server
    finally:
        server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()
