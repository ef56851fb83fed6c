"""The sockets of the lab's name server: one for UDP and one for TCP on each address."""

import contextlib
import socket
import socketserver
import struct
from collections.abc import Callable
from typing import Any, Protocol

Send = Callable[[bytes], None]


class Answering(Protocol):
    def serve(self, address: str, wire: bytes, send: Send, udp: bool) -> None:
        """Respond to one message that was sent to this address."""


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class UDPHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        wire, sock = self.request

        def send(answer: bytes) -> None:
            with contextlib.suppress(OSError):  # the client, or this server, is gone
                sock.sendto(answer, self.client_address)

        server: Any = self.server
        server.owner.serve(server.address, wire, send, udp=True)


class TCPHandler(socketserver.BaseRequestHandler):
    """One connection, with one question after the other (RFC 7766)."""

    timeout = 30

    def handle(self) -> None:
        server: Any = self.server
        self.request.settimeout(self.timeout)
        with contextlib.suppress(OSError), self.request.makefile("rb") as stream:
            while head := stream.read(2):
                wire = stream.read(int.from_bytes(head, "big"))
                server.owner.serve(server.address, wire, self._send, udp=False)

    def _send(self, answer: bytes) -> None:
        self.request.sendall(struct.pack("!H", len(answer)) + answer)


class UDPServer(socketserver.UDPServer):
    max_packet_size = 65535

    def __init__(self, place: tuple[str, int], owner: Answering) -> None:
        self.address = place[0]
        self.owner = owner
        self.address_family = family_of(self.address)
        super().__init__(place, UDPHandler)

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        super().server_bind()


class TCPServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, place: tuple[str, int], owner: Answering) -> None:
        self.address = place[0]
        self.owner = owner
        self.address_family = family_of(self.address)
        super().__init__(place, TCPHandler)
